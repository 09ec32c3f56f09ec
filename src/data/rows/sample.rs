//! From rendered text and its turns to token ids and labels. Which turns are trained is decided in `render/turns.rs` and
//! `render/thinking.rs`; `batch.rs` truncates.
//!
//! The text is split at special tokens, and each piece between them is tokenized on its own, as `tokenizers` does. So a position on
//! such a border needs no search. The text of a special token within a message stays ordinary text: see [`Escapes`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::data::parse::conversation::Conversation;
use crate::data::render::rendering::{Rendering, Turn};
use crate::data::rows::spans::Spans;
use crate::data::rows::turn_kinds::TurnKind;
use crate::data::tokenizer::{ControlToken, Tokenizer, WordCache};

/// The label that torch's `cross_entropy` ignores.
pub const IGNORED: i32 = -100;

/// One row to train on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub input_ids: Vec<i32>,
    /// Whether the tokens are trained on. The first never is, because no token predicts it.
    pub(crate) trained: Spans<bool>,
    /// The kinds of turns that the tokens belong to; none if they were not asked for.
    pub(crate) kinds: Spans<TurnKind>,
    /// Turns that were tokenized separately from their prompts.
    pub separately_tokenized_turns: u32,
}

/// A rendered text with what is known about its parts.
#[derive(Clone, Copy)]
struct MarkedText<'a> {
    text: &'a str,
    turns: &'a [Turn],
    /// See [`Escapes`].
    escape: Option<char>,
    spans: &'a Spans<TurnKind>,
}

/// The tokens of a history, none of which is trained on.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub input_ids: Vec<i32>,
    /// As in [`Sample`].
    pub kinds: Spans<TurnKind>,
    /// Bytes of the text.
    pub length: usize,
}

/// Tokenizes renderings; each thread has its own.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    scratch: WordCache,
    /// The ends of prompts, such as `assistant\n`, and their ids.
    heads: HashMap<String, Arc<[u32]>, Xxh3DefaultBuilder>,
    ids: Vec<u32>,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer) -> Encoder<'a> {
        Encoder { tokenizer, scratch: WordCache::default(), heads: HashMap::default(), ids: Vec::new() }
    }

    /// Overwrites `sample` with the sample of a rendering, in which these special tokens are. The character `escape` is ignored: see
    /// [`Escapes`]. `spans` are the parts of the text whose kinds are wanted; none if they are not.
    pub(crate) fn encode(
        &mut self,
        rendering: &Rendering,
        tokens: impl IntoIterator<Item = ControlToken>,
        escape: Option<char>,
        spans: &Spans<TurnKind>,
        sample: &mut Sample,
    ) -> Result<()> {
        let Rendering { text, turns, .. } = rendering;
        let marked = MarkedText { text, turns, escape, spans };
        sample.input_ids.clear();
        sample.trained.clear();
        sample.trained.extend_to(1, false);
        sample.kinds.clear();
        sample.separately_tokenized_turns = 0;
        let mut done = 0;
        for ControlToken { id, spelled, taken } in tokens {
            self.piece(marked, done..taken.start, sample)?;
            let target =
                overlapping(turns, &spelled).iter().any(|turn| spelled.start >= turn.target_start && spelled.end <= turn.target_end);
            sample.input_ids.push(id as i32);
            sample.trained.extend_to(sample.input_ids.len(), target);
            if let Some(span) = spans.from(spelled.start).first() {
                sample.kinds.extend_to(sample.input_ids.len(), span.kind);
            }
            done = taken.end;
        }
        self.piece(marked, done..text.len(), sample)
    }

    /// Extends the history to `length` bytes of `text`, where a special token begins. `spans` are those of the whole text.
    pub(crate) fn extend(
        &mut self,
        history: &mut History,
        text: &str,
        length: usize,
        escape: Option<char>,
        spans: &Spans<TurnKind>,
    ) -> Result<()> {
        let start = history.length;
        let mut own = Spans::default();
        spans.within(start..length).for_each(|(part, kind)| own.extend_to(part.end - start, kind));
        let mut added = Sample::default();
        let part = Rendering { text: text[start..length].to_string(), turns: Vec::new(), message: None };
        let tokenizer = self.tokenizer;
        self.encode(&part, tokenizer.control_tokens(&part.text), escape, &own, &mut added)?;
        history.input_ids.append(&mut added.input_ids);
        history.kinds.append(&added.kinds);
        history.length = length;
        Ok(())
    }

    /// Tokenizes a piece without special tokens.
    fn piece(&mut self, marked: MarkedText<'_>, range: std::ops::Range<usize>, sample: &mut Sample) -> Result<()> {
        let MarkedText { text, turns, escape, .. } = marked;
        let mut start = range.start;
        self.ids.clear();
        // Inference tokenizes the prompt alone. If the whole has no token border at its end, both parts are tokenized separately.
        for cut in overlapping(turns, &range).iter().map(|turn| turn.prompt_end).filter(|cut| range.start < *cut && *cut < range.end) {
            let whole = Escapes::removed(&text[start..range.end], escape);
            let head = Escapes::removed(&text[start..cut], escape);
            self.ids.clear();
            self.tokenizer.encode(&whole, &mut self.scratch, &mut self.ids)?;
            let head = self.head(&head)?;
            if !self.ids.starts_with(&head) {
                sample.separately_tokenized_turns += 1;
                self.ids.clear();
                self.ids.extend_from_slice(&head);
                self.label(marked, start..cut, sample)?;
                self.ids.clear();
                start = cut;
            }
        }
        if self.ids.is_empty() && start < range.end {
            let whole = Escapes::removed(&text[start..range.end], escape);
            self.tokenizer.encode(&whole, &mut self.scratch, &mut self.ids)?;
        }
        self.label(marked, start..range.end, sample)
    }

    /// Appends `ids`, the tokens of a part of the text, and whether they are trained on.
    fn label(&mut self, marked: MarkedText<'_>, range: std::ops::Range<usize>, sample: &mut Sample) -> Result<()> {
        let MarkedText { text, turns, escape, .. } = marked;
        let from = sample.input_ids.len();
        sample.input_ids.extend(self.ids.iter().map(|id| *id as i32));
        self.note_kinds(marked, &range, sample)?;
        for turn in overlapping(turns, &range).iter().filter(|turn| turn.target_start < range.end && turn.target_end > range.start) {
            let first = if turn.target_start <= range.start { 0 } else { self.first_from(text, &range, turn.target_start, escape)? };
            let last = if turn.target_end >= range.end { self.ids.len() } else { self.first_past(text, &range, turn.target_end, escape)? };
            if first < last {
                sample.trained.extend_to(from + first, false);
                sample.trained.extend_to(from + last, true);
            }
        }
        sample.trained.extend_to(sample.input_ids.len(), false);
        Ok(())
    }

    /// Appends the kinds of `ids`: a token has the kind of the part in which it begins.
    fn note_kinds(&self, marked: MarkedText<'_>, range: &std::ops::Range<usize>, sample: &mut Sample) -> Result<()> {
        let MarkedText { text, escape, spans, .. } = marked;
        let mut following = spans.from(range.start).iter();
        let Some(mut span) = following.next() else { return Ok(()) };
        let mut tokens = sample.input_ids.len();
        if span.end >= range.end {
            sample.kinds.extend_to(tokens, span.kind);
            return Ok(());
        }
        tokens -= self.ids.len();
        let length = |part: std::ops::Range<usize>| self.tokenizer.length(&Escapes::removed(&text[part], escape));
        let (mut begin, mut border) = (0, length(range.start..span.end.min(range.end)));
        for bytes in self.lengths(text, range, escape)? {
            while begin >= border {
                let Some(next) = following.next() else { break };
                border += length(span.end.min(range.end)..next.end.min(range.end));
                span = next;
            }
            tokens += 1;
            sample.kinds.extend_to(tokens, span.kind);
            begin += bytes;
        }
        Ok(())
    }

    /// Index of the first token of `ids` that begins at or after `place`.
    fn first_from(&mut self, text: &str, range: &std::ops::Range<usize>, place: usize, escape: Option<char>) -> Result<usize> {
        let head = Escapes::removed(&text[range.start..place], escape);
        let known = self.head(&head)?;
        if self.ids.starts_with(&known) {
            return Ok(known.len());
        }
        let wanted = self.tokenizer.length(&head);
        let mut begin = 0;
        let lengths = self.lengths(text, range, escape)?;
        Ok(lengths
            .iter()
            .take_while(|length| {
                let before = begin < wanted;
                begin += **length;
                before
            })
            .count())
    }

    /// Index of the first token of `ids` that ends after `place`.
    fn first_past(&mut self, text: &str, range: &std::ops::Range<usize>, place: usize, escape: Option<char>) -> Result<usize> {
        let wanted = self.tokenizer.length(&Escapes::removed(&text[range.start..place], escape));
        let mut end = 0;
        let lengths = self.lengths(text, range, escape)?;
        Ok(lengths
            .iter()
            .take_while(|length| {
                end += **length;
                end <= wanted
            })
            .count())
    }

    fn lengths(&self, text: &str, range: &std::ops::Range<usize>, escape: Option<char>) -> Result<Vec<usize>> {
        self.tokenizer.lengths(&Escapes::removed(&text[range.clone()], escape), &self.ids)
    }

    fn head(&mut self, head: &str) -> Result<Arc<[u32]>> {
        if let Some(known) = self.heads.get(head) {
            return Ok(Arc::clone(known));
        }
        let mut ids = Vec::new();
        self.tokenizer.encode(head, &mut self.scratch, &mut ids)?;
        let ids: Arc<[u32]> = ids.into();
        if head.len() <= 256 && self.heads.len() < 10_000 {
            self.heads.insert(head.to_string(), Arc::clone(&ids));
        }
        Ok(ids)
    }
}

/// The turns, in their order, that may have a position within a range.
fn overlapping<'t>(turns: &'t [Turn], range: &std::ops::Range<usize>) -> &'t [Turn] {
    let first = turns.partition_point(|turn| turn.target_end < range.start);
    let last = turns.partition_point(|turn| turn.prompt_end <= range.end);
    &turns[first..last.max(first)]
}

/// Escapes the text of special tokens in messages, so that it stays ordinary text and only the template's own special tokens count:
/// an escape character is inserted into it before rendering and removed before tokenization.
#[derive(Debug)]
pub struct Escapes;

impl Escapes {
    /// The escaped conversation and the escape character; `None` if no string in it contains the text of a special token.
    pub fn insert(conversation: &Conversation, tokenizer: &Tokenizer) -> Option<(Conversation, char)> {
        let has_literal = |text: &str| tokenizer.control_tokens(text).next().is_some();
        if !any_text(conversation, &has_literal) {
            return None;
        }
        // A character that is not in the conversation; noncharacters first (Unicode, 23.7), then the private use area.
        let escape = ('\u{FDD0}'..='\u{FDEF}')
            .chain('\u{E000}'..='\u{F8FF}')
            .find(|escape| !any_text(conversation, &|text: &str| text.contains(*escape)))?;
        let escaped = |text: &str| {
            let mut escaped = String::with_capacity(text.len() + 16);
            let mut done = 0;
            for ControlToken { spelled, .. } in tokenizer.control_tokens(text) {
                let second = spelled.start + text[spelled.start..].chars().next().map_or(0, char::len_utf8);
                escaped.push_str(&text[done..second]);
                escaped.push(escape);
                done = second;
            }
            escaped + &text[done..]
        };
        let mut conversation = conversation.clone();
        for message in &mut conversation.messages {
            message.content = escaped(&message.content);
            change_fields(&mut message.fields, &escaped);
        }
        conversation.tools.iter_mut().chain(&mut conversation.documents).for_each(|value| change(value, &escaped));
        change_fields(&mut conversation.chat_template_kwargs, &escaped);
        Some((conversation, escape))
    }

    /// The text without escape characters.
    fn removed(text: &str, escape: Option<char>) -> Cow<'_, str> {
        match escape {
            Some(escape) if text.contains(escape) => Cow::Owned(text.replace(escape, "")),
            _ => Cow::Borrowed(text),
        }
    }
}

/// Whether any string in a conversation satisfies `wanted`.
fn any_text(conversation: &Conversation, wanted: &impl Fn(&str) -> bool) -> bool {
    let mut messages = conversation.messages.iter();
    messages.any(|message| wanted(&message.content) || any_field(&message.fields, wanted))
        || conversation.tools.iter().chain(&conversation.documents).any(|value| holds(value, wanted))
        || any_field(&conversation.chat_template_kwargs, wanted)
}

fn any_field(fields: &Map<String, Value>, wanted: &impl Fn(&str) -> bool) -> bool {
    fields.iter().any(|(name, value)| wanted(name) || holds(value, wanted))
}

/// Whether any string in a value, including keys, satisfies `wanted`.
fn holds(value: &Value, wanted: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => wanted(text),
        Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
        Value::Object(fields) => any_field(fields, wanted),
        _ => false,
    }
}

/// Changes every string in a value, including keys.
fn change(value: &mut Value, how: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = how(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, how)),
        Value::Object(fields) => change_fields(fields, how),
        _ => {}
    }
}

fn change_fields(fields: &mut Map<String, Value>, how: &impl Fn(&str) -> String) {
    for (name, mut value) in std::mem::take(fields) {
        change(&mut value, how);
        fields.insert(how(&name), value);
    }
}
