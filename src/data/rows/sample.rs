//! From a text with its turns to token ids and labels.
//!
//! Control tokens cut the text; what lies between them is tokenized piece by piece, as tokenizers do it. So a place that falls on a
//! border needs no search, and what a user's text spells stays text: see [`Marks`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::data::parse::conversation::Conversation;
use crate::data::render::rendering::{Rendering, Turn};
use crate::data::tokenizer::{ControlToken, Tokenizer, WordCache};

/// torch's `cross_entropy` leaves such labels out.
pub const IGNORED: i32 = -100;

/// One row to train on. `labels[k]` is `input_ids[k]` or [`IGNORED`], so whoever computes the loss shifts them by one; `labels[0]`
/// is always ignored, as nothing predicts the first token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub input_ids: Vec<i32>,
    pub labels: Vec<i32>,
    /// Turns that were tokenized apart from their prompts.
    pub recut_turns: u32,
}

/// Tokenizes texts; each thread has its own.
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

    /// Makes `sample` that of a text, in which `mark` stands for nothing: see [`Marks`].
    pub fn encode(&mut self, rendering: &Rendering, mark: Option<char>, sample: &mut Sample) -> Result<()> {
        let Rendering { text, turns, .. } = rendering;
        sample.input_ids.clear();
        sample.labels.clear();
        sample.recut_turns = 0;
        let mut done = 0;
        for ControlToken { id, spelled, taken } in self.tokenizer.control_tokens(text) {
            self.piece(text, done..taken.start, turns, mark, sample)?;
            let target = turns.iter().any(|turn| spelled.start >= turn.target_start && spelled.end <= turn.target_end);
            sample.input_ids.push(id as i32);
            sample.labels.push(if target { id as i32 } else { IGNORED });
            done = taken.end;
        }
        self.piece(text, done..text.len(), turns, mark, sample)?;
        if let Some(first) = sample.labels.first_mut() {
            *first = IGNORED;
        }
        Ok(())
    }

    /// The tokens of a piece without control tokens.
    fn piece(&mut self, text: &str, range: std::ops::Range<usize>, turns: &[Turn], mark: Option<char>, sample: &mut Sample) -> Result<()> {
        let mut start = range.start;
        self.ids.clear();
        // Inference cuts the text at each prompt's end. Where the whole is not cut there, prompt and turn are tokenized apart.
        for cut in turns.iter().map(|turn| turn.prompt_end).filter(|cut| range.start < *cut && *cut < range.end) {
            let whole = Marks::removed(&text[start..range.end], mark);
            let head = Marks::removed(&text[start..cut], mark);
            self.ids.clear();
            self.tokenizer.encode(&whole, &mut self.scratch, &mut self.ids)?;
            let head = self.head(&head)?;
            if !self.ids.starts_with(&head) {
                sample.recut_turns += 1;
                self.ids.clear();
                self.ids.extend_from_slice(&head);
                self.label(text, start..cut, turns, mark, sample)?;
                self.ids.clear();
                start = cut;
            }
        }
        if self.ids.is_empty() && start < range.end {
            let whole = Marks::removed(&text[start..range.end], mark);
            self.tokenizer.encode(&whole, &mut self.scratch, &mut self.ids)?;
        }
        self.label(text, start..range.end, turns, mark, sample)
    }

    /// Appends `ids`, the tokens of a part of the text, with their labels.
    fn label(&mut self, text: &str, range: std::ops::Range<usize>, turns: &[Turn], mark: Option<char>, sample: &mut Sample) -> Result<()> {
        let from = sample.input_ids.len();
        sample.input_ids.extend(self.ids.iter().map(|id| *id as i32));
        sample.labels.resize(sample.input_ids.len(), IGNORED);
        for turn in turns.iter().filter(|turn| turn.target_start < range.end && turn.target_end > range.start) {
            let first = if turn.target_start <= range.start { 0 } else { self.first_from(text, &range, turn.target_start, mark)? };
            let last = if turn.target_end >= range.end { self.ids.len() } else { self.first_past(text, &range, turn.target_end, mark)? };
            if first < last {
                sample.labels[from + first..from + last].copy_from_slice(&sample.input_ids[from + first..from + last]);
            }
        }
        Ok(())
    }

    /// Of the tokens `ids` of a part, the first that begins at `place` or behind it.
    fn first_from(&mut self, text: &str, range: &std::ops::Range<usize>, place: usize, mark: Option<char>) -> Result<usize> {
        let head = Marks::removed(&text[range.start..place], mark);
        let known = self.head(&head)?;
        if self.ids.starts_with(&known) {
            return Ok(known.len());
        }
        let wanted = self.tokenizer.length(&head);
        let mut begin = 0;
        let lengths = self.lengths(text, range, mark)?;
        Ok(lengths
            .iter()
            .take_while(|length| {
                let before = begin < wanted;
                begin += **length;
                before
            })
            .count())
    }

    /// Of the tokens `ids` of a part, the first that ends behind `place`.
    fn first_past(&mut self, text: &str, range: &std::ops::Range<usize>, place: usize, mark: Option<char>) -> Result<usize> {
        let wanted = self.tokenizer.length(&Marks::removed(&text[range.start..place], mark));
        let mut end = 0;
        let lengths = self.lengths(text, range, mark)?;
        Ok(lengths
            .iter()
            .take_while(|length| {
                end += **length;
                end <= wanted
            })
            .count())
    }

    fn lengths(&self, text: &str, range: &std::ops::Range<usize>, mark: Option<char>) -> Result<Vec<usize>> {
        self.tokenizer.lengths(&Marks::removed(&text[range.clone()], mark), &self.ids)
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

/// A text of the user's that spells a control token stays text: a mark inside it keeps the template's own apart from it, and goes
/// away before the text is tokenized.
#[derive(Debug)]
pub struct Marks;

impl Marks {
    /// The conversation with marks, and the mark, where a text of its spells a control token.
    pub fn set(conversation: &Conversation, tokenizer: &Tokenizer) -> Option<(Conversation, char)> {
        let spelt = |text: &str| tokenizer.control_tokens(text).next().is_some();
        if !any_text(conversation, &spelt) {
            return None;
        }
        // A character that no text of the conversation has; first those that are never part of text (Unicode, 23.7).
        let mark = ('\u{FDD0}'..='\u{FDEF}')
            .chain('\u{E000}'..='\u{F8FF}')
            .find(|mark| !any_text(conversation, &|text: &str| text.contains(*mark)))?;
        let marked = |text: &str| {
            let mut marked = String::with_capacity(text.len() + 16);
            let mut done = 0;
            for ControlToken { spelled, .. } in tokenizer.control_tokens(text) {
                let second = spelled.start + text[spelled.start..].chars().next().map_or(0, char::len_utf8);
                marked.push_str(&text[done..second]);
                marked.push(mark);
                done = second;
            }
            marked + &text[done..]
        };
        let mut conversation = conversation.clone();
        for message in &mut conversation.messages {
            message.content = marked(&message.content);
            change_fields(&mut message.fields, &marked);
        }
        conversation.tools.iter_mut().chain(&mut conversation.documents).for_each(|value| change(value, &marked));
        change_fields(&mut conversation.chat_template_kwargs, &marked);
        Some((conversation, mark))
    }

    /// A text without its marks.
    fn removed(text: &str, mark: Option<char>) -> Cow<'_, str> {
        match mark {
            Some(mark) if text.contains(mark) => Cow::Owned(text.replace(mark, "")),
            _ => Cow::Borrowed(text),
        }
    }
}

/// Whether any text in a conversation meets `wanted`.
fn any_text(conversation: &Conversation, wanted: &impl Fn(&str) -> bool) -> bool {
    let mut messages = conversation.messages.iter();
    messages.any(|message| wanted(&message.content) || any_field(&message.fields, wanted))
        || conversation.tools.iter().chain(&conversation.documents).any(|value| holds(value, wanted))
        || any_field(&conversation.chat_template_kwargs, wanted)
}

fn any_field(fields: &Map<String, Value>, wanted: &impl Fn(&str) -> bool) -> bool {
    fields.iter().any(|(name, value)| wanted(name) || holds(value, wanted))
}

/// Whether any text in a value, names of members too, meets `wanted`.
fn holds(value: &Value, wanted: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => wanted(text),
        Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
        Value::Object(fields) => any_field(fields, wanted),
        _ => false,
    }
}

/// Changes every text in a value.
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
