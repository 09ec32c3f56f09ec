//! What a chat template writes around the messages of plain conversations whose roles are the same, found once and then filled in.
//!
//! A template is a program, and running it for every turn of every conversation was a third of the time. But of a plain message it
//! sees a role and a content, and the content it hands through, or looks at in few ways: whether it is empty, how it begins and ends,
//! whether it holds a word such as `</think>` that the template itself spells. So a conversation of stand-ins shows what comes out
//! for all whose contents have nothing to see: see [`Skeletons::plain`]. Only templates whose renderings are compared with
//! transformers' in our tests are treated so, and the first conversation of each sequence of roles is rendered both ways.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use aho_corasick::AhoCorasick;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::data::parse::conversation::{Conversation, Message};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::{RenderError, Rendering, Turn};

/// Sequences of roles that are kept, and how long one may be.
const SEQUENCES: usize = 1024;
const MESSAGES: usize = 64;

/// Around the number of a message, in stand-ins: characters for private use, which no template names and no strip takes away.
const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';

/// The skeletons of a template.
#[derive(Debug)]
pub(crate) struct Skeletons {
    /// Texts that the template spells: what it may look for in a content.
    spelled: AhoCorasick,
    /// All its literals: what it may compare a whole content with.
    literals: HashSet<String, Xxh3DefaultBuilder>,
    /// Bytes of the longest of them.
    longest: usize,
    /// Whether it may take away white space at a content's ends.
    strips: bool,
    /// By the roles and whether each is trained; nothing where the two ways differ.
    known: RwLock<HashMap<Vec<u8>, Option<Arc<Skeleton>>, Xxh3DefaultBuilder>>,
}

/// The renderings of one sequence of roles.
#[derive(Debug)]
struct Skeleton(Vec<Frame>);

/// A rendering whose contents are taken out.
#[derive(Debug)]
struct Frame {
    text: String,
    /// Where contents belong, in order: offset in `text`, and of which message.
    gaps: Vec<(usize, usize)>,
    turns: Vec<[Place; 3]>,
    message: Option<usize>,
}

/// A place in a rendering: an offset in a frame's text, and how many gaps lie before it.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    offset: usize,
    gaps: usize,
}

impl Skeletons {
    /// Of the template with this source; none where it spells what stand-ins are made of.
    pub(crate) fn new(source: &str) -> Option<Skeletons> {
        let literals = literals(source);
        // Such as `</think>`; a word of letters alone is a role or a key.
        let telling = |word: &&str| word.len() > 1 && !word.contains(char::is_whitespace) && !word.chars().all(char::is_alphanumeric);
        let spelled = AhoCorasick::new(literals.iter().map(|literal| literal.trim()).filter(telling)).ok()?;
        let strips = ["strip", "trim", "split"].iter().any(|word| source.contains(word));
        (!source.contains([OPEN, CLOSE])).then(|| Skeletons {
            spelled,
            longest: literals.iter().map(String::len).max().unwrap_or(0),
            literals,
            strips,
            known: RwLock::default(),
        })
    }

    /// The renderings of a conversation; `directly` renders any.
    ///
    /// # Errors
    /// Those of `directly`.
    pub(crate) fn renderings(
        &self,
        conversation: &Conversation,
        directly: impl Fn(&Conversation) -> Result<Vec<Rendering>, RenderError>,
    ) -> Result<Vec<Rendering>, RenderError> {
        if !self.plain(conversation) {
            return directly(conversation);
        }
        let key: Vec<u8> = conversation.messages.iter().map(|message| message.role as u8 * 2 + u8::from(message.train)).collect();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        match known {
            Some(Some(skeleton)) => return Ok(skeleton.filled(conversation)),
            Some(None) => return directly(conversation),
            None => {}
        }
        let right = directly(conversation)?;
        let made = directly(&stand_ins(conversation)).ok().and_then(|renderings| Skeleton::new(&renderings));
        let made = made.filter(|skeleton| skeleton.filled(conversation) == right);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < SEQUENCES {
            known.insert(key, made.map(Arc::new));
        }
        Ok(right)
    }

    /// Whether a conversation is nothing but roles and contents, and no content has anything that the template may look at.
    fn plain(&self, conversation: &Conversation) -> bool {
        let Conversation { index: _, messages, tools, documents, chat_template_kwargs } = conversation;
        let unseen = |text: &str| {
            let visible = |c: Option<char>| c.is_some_and(|c| !self.strips || !jinja_methods::is_space(c));
            visible(text.chars().next())
                && visible(text.chars().next_back())
                && !(text.len() <= self.longest && self.literals.contains(text))
                && !self.spelled.is_match(text)
        };
        tools.is_none()
            && documents.is_none()
            && chat_template_kwargs.is_empty()
            && messages.len() <= MESSAGES
            && messages.iter().all(|message| message.fields.is_empty() && unseen(&message.content))
    }
}

/// The same roles, each content a stand-in.
fn stand_ins(conversation: &Conversation) -> Conversation {
    let stand_in = |(i, message): (usize, &Message)| Message { content: format!("{OPEN}{i}{CLOSE}"), ..message.clone() };
    Conversation { messages: conversation.messages.iter().enumerate().map(stand_in).collect(), ..conversation.clone() }
}

impl Skeleton {
    /// From the renderings of stand-ins; nothing where one did not come out whole.
    fn new(renderings: &[Rendering]) -> Option<Skeleton> {
        renderings.iter().map(Frame::new).collect::<Option<_>>().map(Skeleton)
    }

    fn filled(&self, conversation: &Conversation) -> Vec<Rendering> {
        self.0.iter().map(|frame| frame.filled(&conversation.messages)).collect()
    }
}

impl Frame {
    fn new(rendering: &Rendering) -> Option<Frame> {
        let shown = &rendering.text;
        let mut frame = Frame { text: String::new(), gaps: Vec::new(), turns: Vec::new(), message: rendering.message };
        // Where each stand-in lies in the text of the rendering.
        let mut taken = Vec::new();
        let mut done = 0;
        while let Some(open) = shown[done..].find(OPEN).map(|at| done + at) {
            let number = open + OPEN.len_utf8();
            let close = number + shown[number..].find(CLOSE)?;
            frame.text.push_str(&shown[done..open]);
            frame.gaps.push((frame.text.len(), shown[number..close].parse().ok()?));
            done = close + CLOSE.len_utf8();
            taken.push(open..done);
        }
        frame.text.push_str(&shown[done..]);
        let place = |at: usize| {
            let gaps = taken.iter().take_while(|stand_in| stand_in.end <= at).count();
            // A place within a stand-in is nowhere in other contents.
            let outside = taken.get(gaps).is_none_or(|next| at <= next.start);
            let before: usize = taken[..gaps].iter().map(ExactSizeIterator::len).sum();
            outside.then_some(Place { offset: at - before, gaps })
        };
        for turn in &rendering.turns {
            frame.turns.push([place(turn.prompt_end)?, place(turn.target_start)?, place(turn.target_end)?]);
        }
        Some(frame)
    }

    fn filled(&self, messages: &[Message]) -> Rendering {
        // The length of the contents up to each gap.
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
        let at = |place: Place| place.offset + before[place.gaps];
        let turn =
            |[prompt_end, start, end]: &[Place; 3]| Turn { prompt_end: at(*prompt_end), target_start: at(*start), target_end: at(*end) };
        Rendering { text, turns: self.turns.iter().map(turn).collect(), message: self.message }
    }
}

/// The string literals in a template's tags, roughly: one with an escape other than a newline's is cut there.
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

    /// Two answers, the first of which is rendered otherwise once the second is there.
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
    fn what_a_template_may_look_at_is_not_plain() {
        let skeletons = Skeletons::new(REWRITES).unwrap();
        let plain = |content: &str| {
            let messages = vec![Message::new(Role::User, "q".into()), Message::new(Role::Assistant, content.into())];
            skeletons.plain(&Conversation { messages, ..Conversation::default() })
        };
        assert!(plain("a < b, then\n\nc"));
        for seen in ["", " a", "a\u{1f}", "a</think>b", "assistant"] {
            assert!(!plain(seen), "{seen:?}");
        }
    }

    #[test]
    fn contents_come_into_their_gaps_and_places_move_along() {
        let rendering = |a: &str, b: &str| {
            let text = format!("<u>{a}</u><a>{b}</a>");
            let (start, end) = (10 + a.len(), 14 + a.len() + b.len());
            Rendering { text, turns: vec![Turn { prompt_end: start, target_start: start, target_end: end }], message: Some(1) }
        };
        let frame = Frame::new(&rendering("\u{E000}0\u{E001}", "\u{E000}1\u{E001}")).unwrap();
        let messages = [Message::new(Role::User, "hello".into()), Message::new(Role::Assistant, "é".into())];
        assert_eq!(frame.filled(&messages), rendering("hello", "é"));
        let mut within = rendering("\u{E000}0\u{E001}", "x");
        within.turns[0].prompt_end = 5;
        assert!(Frame::new(&within).is_none());
    }
}
