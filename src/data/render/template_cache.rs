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

use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::{RenderError, Rendering, Turn};

/// Limits: cached sequences of roles, and messages of one.
const SEQUENCES: usize = 1024;
const MESSAGES: usize = 64;

/// Delimiters of the message's index in a placeholder: private use characters, which templates do not contain and `strip` keeps.
const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';

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

/// A rendering without the contents of messages.
#[derive(Debug)]
struct RenderingFrame {
    text: String,
    /// Gaps for contents, in order: offset in `text`, and index of the message.
    gaps: Vec<(usize, usize)>,
    turns: Vec<[Position; 3]>,
    message: Option<usize>,
}

/// A position in a rendering: an offset in a frame's text, and the number of gaps before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    offset: usize,
    gaps: usize,
}

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

    /// The rendering of a long conversation in linear time; `None` if it must be rendered turn by turn. `turn` finds one turn as inference sees
    /// it, and `whole` renders a conversation.
    ///
    /// The template runs once, with placeholders for the contents. What it writes before and after an answer has few forms in one conversation.
    /// The first and the last turn of each form are found exactly, and the positions in the others follow from the text around them.
    pub(crate) fn long(
        &self,
        conversation: &Conversation,
        whole: impl Fn(&Conversation) -> Result<String, RenderError>,
        turn: impl Fn(&Conversation, usize) -> Result<(String, Turn), RenderError>,
    ) -> Option<Vec<Rendering>> {
        if conversation.messages.len() <= MESSAGES || !self.plain(conversation) {
            return None;
        }
        let numbered = with_placeholders(conversation);
        let text = whole(&numbered).ok()?;
        let frame = RenderingFrame::new(&Rendering { text: text.clone(), turns: Vec::new(), message: None })?;
        // Every content must be there once, in order.
        if !frame.gaps.iter().map(|(_, message)| *message).eq(0..conversation.messages.len()) {
            return None;
        }
        let trained = |message: &ChatMessage| message.role == Role::Assistant && message.train;
        let mut forms: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        for i in (0..conversation.messages.len()).filter(|i| trained(&conversation.messages[*i])) {
            forms.entry((frame.before(i), frame.before(i + 1))).or_default().push(i);
        }
        let last = conversation.messages.len() - 1;
        let mut turns: Vec<(usize, [Position; 3])> = Vec::new();
        let mut end = None;
        for (form, messages) in &forms {
            let (first, final_one) = (*messages.first()?, *messages.last()?);
            let exact = |i: usize| {
                let (alone, turn) = turn(&numbered, i).ok()?;
                // The whole has the turn as inference sees it; at its end the template may omit the token that ends the turn.
                let extends = i == last && alone.starts_with(&text);
                let one = RenderingFrame::new(&Rendering { text: alone.clone(), turns: vec![turn], message: None })?;
                (extends || text.starts_with(&alone)).then(|| (one.turns[0], extends.then(|| one.text.clone())))
            };
            let (at_first, _) = exact(first)?;
            let (at_last, extended) = exact(final_one)?;
            end = end.or(extended);
            // Relative to the content of the answer, in front of which the form begins.
            let start = |i: usize| frame.gaps[i].0 - form.0.len();
            let relative = |i: usize, positions: [Position; 3]| {
                positions.map(|position| (position.offset.checked_sub(start(i)), position.gaps.checked_sub(i)))
            };
            let shape = relative(first, at_first);
            if shape != relative(final_one, at_last) || shape.iter().any(|(offset, gaps)| offset.is_none() || gaps.is_none()) {
                return None;
            }
            let place =
                |i: usize| shape.map(|(offset, gaps)| Position { offset: start(i) + offset.unwrap_or(0), gaps: i + gaps.unwrap_or(0) });
            turns.extend(messages.iter().map(|i| (*i, place(*i))));
        }
        turns.sort_by_key(|(i, _)| *i);
        let turns = turns.into_iter().map(|(_, positions)| positions).collect();
        let frame = RenderingFrame { text: end.unwrap_or_else(|| frame.text.clone()), gaps: frame.gaps.clone(), turns, message: None };
        Some(vec![frame.filled(&conversation.messages)])
    }

    /// Whether a conversation consists only of roles and contents, and no content has anything that the template may test.
    fn plain(&self, conversation: &Conversation) -> bool {
        let Conversation { index: _, kind: _, remarks: _, messages, tools, documents, chat_template_kwargs } = conversation;
        let unseen = |text: &str| {
            let visible = |c: Option<char>| c.is_some_and(|c| !self.strips || !jinja_methods::is_space(c));
            visible(text.chars().next())
                && visible(text.chars().next_back())
                && !(text.len() <= self.longest && self.literals.contains(text))
                && !self.searched.is_match(text)
        };
        tools.is_none()
            && documents.is_none()
            && chat_template_kwargs.values().all(|value| value.is_boolean() || value.is_number())
            && messages.iter().all(|message| message.fields.is_empty() && unseen(&message.content))
    }
}

/// The conversation with a placeholder for each content.
fn with_placeholders(conversation: &Conversation) -> Conversation {
    let placeholder = |(i, message): (usize, &ChatMessage)| ChatMessage { content: format!("{OPEN}{i}{CLOSE}"), ..message.clone() };
    Conversation { messages: conversation.messages.iter().enumerate().map(placeholder).collect(), ..conversation.clone() }
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

impl RenderingFrame {
    fn new(rendering: &Rendering) -> Option<RenderingFrame> {
        let shown = &rendering.text;
        let mut frame = RenderingFrame { text: String::new(), gaps: Vec::new(), turns: Vec::new(), message: rendering.message };
        // The span of each placeholder in the rendering's text.
        let mut placeholders = Vec::new();
        let mut done = 0;
        while let Some(open) = shown[done..].find(OPEN).map(|at| done + at) {
            let number = open + OPEN.len_utf8();
            let close = number + shown[number..].find(CLOSE)?;
            frame.text.push_str(&shown[done..open]);
            frame.gaps.push((frame.text.len(), shown[number..close].parse().ok()?));
            done = close + CLOSE.len_utf8();
            placeholders.push(open..done);
        }
        frame.text.push_str(&shown[done..]);
        // The total length of the placeholders before each.
        let mut before = vec![0];
        before.extend(placeholders.iter().scan(0, |sum, placeholder| {
            *sum += placeholder.len();
            Some(*sum)
        }));
        let position = |at: usize| {
            let gaps = placeholders.partition_point(|placeholder| placeholder.end <= at);
            // A position within a placeholder has no equivalent in other contents.
            let outside = placeholders.get(gaps).is_none_or(|next| at <= next.start);
            outside.then_some(Position { offset: at - before[gaps], gaps })
        };
        for turn in &rendering.turns {
            frame.turns.push([position(turn.prompt_end)?, position(turn.target_start)?, position(turn.target_end)?]);
        }
        Some(frame)
    }

    /// The text between two contents: that before the gap `i`, or after the last one.
    fn before(&self, i: usize) -> &str {
        let start = i.checked_sub(1).map_or(0, |before| self.gaps[before].0);
        &self.text[start..self.gaps.get(i).map_or(self.text.len(), |(gap, _)| *gap)]
    }

    fn filled(&self, messages: &[ChatMessage]) -> Rendering {
        // The total length of the contents before each gap.
        let mut before = Vec::with_capacity(self.gaps.len() + 1);
        before.push(0);
        before.extend(self.gaps.iter().scan(0, |sum, (_, message)| {
            *sum += messages[*message].content.len();
            Some(*sum)
        }));
        let mut text = String::with_capacity(self.text.len() + before[self.gaps.len()]);
        let mut done = 0;
        for (gap, message) in &self.gaps {
            text.push_str(&self.text[done..*gap]);
            text.push_str(&messages[*message].content);
            done = *gap;
        }
        text.push_str(&self.text[done..]);
        let at = |position: Position| position.offset + before[position.gaps];
        let turn =
            |[prompt_end, start, end]: &[Position; 3]| Turn { prompt_end: at(*prompt_end), target_start: at(*start), target_end: at(*end) };
        Rendering { text, turns: self.turns.iter().map(turn).collect(), message: self.message }
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

    #[test]
    fn contents_fill_the_gaps_and_positions_shift() {
        let rendering = |a: &str, b: &str| {
            let text = format!("<u>{a}</u><a>{b}</a>");
            let (start, end) = (10 + a.len(), 14 + a.len() + b.len());
            Rendering { text, turns: vec![Turn { prompt_end: start, target_start: start, target_end: end }], message: Some(1) }
        };
        let frame = RenderingFrame::new(&rendering("\u{E000}0\u{E001}", "\u{E000}1\u{E001}")).unwrap();
        let messages = [ChatMessage::new(Role::User, "hello".into()), ChatMessage::new(Role::Assistant, "é".into())];
        assert_eq!(frame.filled(&messages), rendering("hello", "é"));
        let mut within = rendering("\u{E000}0\u{E001}", "x");
        within.turns[0].prompt_end = 5;
        assert!(RenderingFrame::new(&within).is_none());
    }
}
