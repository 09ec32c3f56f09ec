//! A cache of chat template output: for each sequence of roles, the text that the template writes around the contents of messages.
//!
//! Running the template for every turn of every conversation took a third of the time. Of a plain message the template sees only role and
//! content. It copies the content, or tests it in few ways: whether it is empty, how it begins and ends, whether it contains a string
//! literal of the template, such as `</think>`. So the rendering of placeholders gives the output for all contents that pass none of
//! these tests: see [`TemplateCache::plain`]. The cache is used only for templates whose renderings our tests compare with
//! transformers', and the first conversation of each sequence of roles is rendered both ways.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use aho_corasick::AhoCorasick;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::data::parse::conversation::{ChatMessage, Conversation};
use crate::data::render::jinja_methods;
use crate::data::render::long_conversations::SplitContent;
use crate::data::render::rendering::{RenderError, Rendering};
use crate::data::render::rendering_frame::{CLOSE, OPEN, RenderingFrame, with_placeholders};
use crate::data::render::template::REASONING;

/// Limits: cached sequences of roles, and messages of one.
const SEQUENCES: usize = 1024;
const MESSAGES: usize = 64;

/// The cache of a template.
#[derive(Debug)]
pub(crate) struct TemplateCache {
    /// Literals that the template may search for in a content.
    searched: AhoCorasick,
    /// All literals: the template may compare a whole content with them.
    literals: HashSet<String, Xxh3DefaultBuilder>,
    /// Bytes of the longest literal.
    longest: usize,
    /// Whether the template may strip white space from a content.
    strips: bool,
    /// By the roles and whether each is trained; `None` if the cached rendering differed from the template's.
    cached: RwLock<HashMap<Vec<u8>, Option<Arc<CachedRenderings>>, Xxh3DefaultBuilder>>,
}

/// The renderings of one sequence of roles.
#[derive(Debug)]
struct CachedRenderings(Vec<RenderingFrame>);

impl TemplateCache {
    /// The cache of the template with this source; `None` if the source contains the delimiters of placeholders.
    pub(crate) fn new(source: &str) -> Option<TemplateCache> {
        let literals = literals(source);
        // For example `</think>`; a literal of letters and digits alone is a role or a key.
        let is_marker = |word: &&str| word.len() > 1 && !word.contains(char::is_whitespace) && !word.chars().all(char::is_alphanumeric);
        let searched = AhoCorasick::new(literals.iter().map(|literal| literal.trim()).filter(is_marker)).ok()?;
        let strips = ["strip", "trim", "split"].iter().any(|word| source.contains(word));
        (!source.contains([OPEN, CLOSE])).then(|| TemplateCache {
            searched,
            longest: literals.iter().map(String::len).max().unwrap_or(0),
            literals,
            strips,
            cached: RwLock::default(),
        })
    }

    /// The renderings of a conversation. `render` runs the template.
    ///
    /// # Errors
    /// Those of `render`.
    pub(crate) fn renderings(
        &self,
        conversation: &Conversation,
        render: impl Fn(&Conversation) -> Result<Vec<Rendering>, RenderError>,
    ) -> Result<Vec<Rendering>, RenderError> {
        if conversation.messages.len() > MESSAGES || !self.plain(conversation) {
            return render(conversation);
        }
        let mut key: Vec<u8> = conversation.messages.iter().map(|message| message.role as u8 * 2 + u8::from(message.train)).collect();
        if !conversation.chat_template_kwargs.is_empty() {
            key.push(u8::MAX);
            key.extend(serde_json::to_vec(&conversation.chat_template_kwargs).unwrap_or_default());
        }
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        match cached {
            Some(Some(renderings)) => return Ok(renderings.filled(conversation)),
            Some(None) => return render(conversation),
            None => {}
        }
        let expected = render(conversation)?;
        let new = render(&with_placeholders(conversation)).ok().and_then(|renderings| CachedRenderings::new(&renderings));
        let new = new.filter(|renderings| renderings.filled(conversation) == expected);
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        if cached.len() < SEQUENCES {
            cached.insert(key, new.map(Arc::new));
        }
        Ok(expected)
    }

    /// Whether a conversation is too long for the cache.
    pub(crate) fn is_long(conversation: &Conversation) -> bool {
        conversation.messages.len() > MESSAGES
    }

    /// Whether a conversation is too long for the cache but may be rendered by [`super::long_conversations`].
    pub(crate) fn is_long_and_plain(&self, conversation: &Conversation) -> bool {
        TemplateCache::is_long(conversation) && self.plain(conversation)
    }

    /// The same, and messages may have reasoning too.
    pub(crate) fn is_long_with_reasoning(&self, conversation: &Conversation) -> bool {
        let message = |message: &ChatMessage| {
            let content = SplitContent::of(message);
            let own = message.fields.keys().all(|name| name == REASONING[0]) && (message.fields.is_empty() || content.reasoning.is_some());
            own && self.untested(content.answer) && content.reasoning.is_none_or(|reasoning| self.untested(reasoning))
        };
        TemplateCache::is_long(conversation) && no_lists(conversation) && conversation.messages.iter().all(message)
    }

    /// Whether a conversation consists only of roles and contents, and no content has anything that the template may test.
    fn plain(&self, conversation: &Conversation) -> bool {
        no_lists(conversation) && conversation.messages.iter().all(|message| message.fields.is_empty() && self.untested(&message.content))
    }

    /// Whether a text has nothing that the template may test.
    fn untested(&self, text: &str) -> bool {
        let visible = |c: Option<char>| c.is_some_and(|c| !self.strips || !jinja_methods::is_space(c));
        visible(text.chars().next())
            && visible(text.chars().next_back())
            && !(text.len() <= self.longest && self.literals.contains(text))
            && !self.searched.is_match(text)
    }
}

/// Whether a conversation has nothing but messages and plain variables.
fn no_lists(conversation: &Conversation) -> bool {
    let Conversation { index: _, kind: _, remarks: _, messages: _, tools, documents, chat_template_kwargs } = conversation;
    tools.is_none() && documents.is_none() && chat_template_kwargs.values().all(|value| value.is_boolean() || value.is_number())
}

impl CachedRenderings {
    /// From the renderings of placeholders; `None` if the template changed one.
    fn new(renderings: &[Rendering]) -> Option<CachedRenderings> {
        renderings.iter().map(RenderingFrame::new).collect::<Option<_>>().map(CachedRenderings)
    }

    fn filled(&self, conversation: &Conversation) -> Vec<Rendering> {
        self.0.iter().map(|frame| frame.filled(&conversation.messages)).collect()
    }
}

/// The string literals in a template's tags, approximately: a literal ends at an escaped quote.
fn literals(source: &str) -> HashSet<String, Xxh3DefaultBuilder> {
    let mut found = HashSet::default();
    for tag in source.split("{%").skip(1).chain(source.split("{{").skip(1)) {
        let mut rest = tag;
        while let Some(start) = rest.find(['\'', '"']) {
            let quote = char::from(rest.as_bytes()[start]);
            let Some(length) = rest[start + 1..].find(quote) else { break };
            found.insert(rest[start + 1..start + 1 + length].replace("\\n", "\n"));
            rest = &rest[start + length + 2..];
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::parse::conversation::Role;

    /// A template that renders an answer differently if another message follows.
    const REWRITES: &str = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think>{% endif %}\
        {{ m.content.split('</think>')[-1].strip('\n') }}<end>{% endfor %}";

    #[test]
    fn literals_are_found_in_tags_alone() {
        let found = literals("it's {% if '</think>' in x and y == \"user\" %}'no'{{ '<|im_start|>' + m.role + '\\n' }}");
        for wanted in ["</think>", "user", "<|im_start|>", "\n"] {
            assert!(found.contains(wanted), "{wanted:?} in {found:?}");
        }
    }

    #[test]
    fn contents_that_a_template_may_test_are_not_plain() {
        let cache = TemplateCache::new(REWRITES).unwrap();
        let plain = |content: &str| {
            let messages = vec![ChatMessage::new(Role::User, "q".into()), ChatMessage::new(Role::Assistant, content.into())];
            cache.plain(&Conversation { messages, ..Conversation::default() })
        };
        assert!(plain("a < b, then\n\nc"));
        for seen in ["", " a", "a\u{1f}", "a</think>b", "assistant"] {
            assert!(!plain(seen), "{seen:?}");
        }
    }
}
