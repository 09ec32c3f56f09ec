//! From a text with its turns to token ids and labels.
//!
//! Control tokens cut the text; what lies between them is tokenized piece by piece, as tokenizers do it. So a place that falls on a
//! border needs no search, and what a user's text spells stays text: see [`Marks`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::conversation::Conversation;
use super::render::{Rendering, Turn};
use super::tokenizer::{Scratch, Tokenizer};

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
    scratch: Scratch,
    /// The ends of prompts, such as `assistant\n`, and their ids.
    heads: HashMap<String, Arc<[u32]>>,
    ids: Vec<u32>,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer) -> Encoder<'a> {
        Encoder { tokenizer, scratch: Scratch::default(), heads: HashMap::new(), ids: Vec::new() }
    }

    /// The sample of a text. `marked`: the text holds [`Marks`].
    pub fn encode(&mut self, rendering: &Rendering, marked: bool) -> Result<Sample> {
        let Rendering { text, turns, .. } = rendering;
        let mut sample = Sample::default();
        sample.input_ids.reserve(text.len() / 3);
        let mut done = 0;
        for (begin, end, id) in self.tokenizer.control_tokens(text) {
            self.piece(text, done..begin, turns, marked, &mut sample)?;
            let target = turns.iter().any(|turn| begin >= turn.target_start && end <= turn.target_end);
            sample.input_ids.push(id as i32);
            sample.labels.push(if target { id as i32 } else { IGNORED });
            done = end;
        }
        self.piece(text, done..text.len(), turns, marked, &mut sample)?;
        if let Some(first) = sample.labels.first_mut() {
            *first = IGNORED;
        }
        Ok(sample)
    }

    /// The tokens of a piece without control tokens.
    fn piece(&mut self, text: &str, range: std::ops::Range<usize>, turns: &[Turn], marked: bool, sample: &mut Sample) -> Result<()> {
        let mut start = range.start;
        self.ids.clear();
        // Inference cuts the text at each prompt's end. Where the whole is not cut there, prompt and turn are tokenized apart.
        for cut in turns.iter().map(|turn| turn.prompt_end).filter(|cut| range.start < *cut && *cut < range.end) {
            let whole = Marks::removed(&text[start..range.end], marked);
            let head = Marks::removed(&text[start..cut], marked);
            self.ids.clear();
            self.tokenizer.encode(&whole, &mut self.scratch, &mut self.ids)?;
            let head = self.head(&head)?;
            if !self.ids.starts_with(&head) {
                sample.recut_turns += 1;
                self.ids.clear();
                self.ids.extend_from_slice(&head);
                self.label(text, start..cut, turns, marked, sample)?;
                self.ids.clear();
                start = cut;
            }
        }
        if self.ids.is_empty() && start < range.end {
            let whole = Marks::removed(&text[start..range.end], marked);
            self.tokenizer.encode(&whole, &mut self.scratch, &mut self.ids)?;
        }
        self.label(text, start..range.end, turns, marked, sample)
    }

    /// Appends `ids`, the tokens of a part of the text, with their labels.
    fn label(&mut self, text: &str, range: std::ops::Range<usize>, turns: &[Turn], marked: bool, sample: &mut Sample) -> Result<()> {
        let from = sample.input_ids.len();
        sample.input_ids.extend(self.ids.iter().map(|id| *id as i32));
        sample.labels.resize(sample.input_ids.len(), IGNORED);
        for turn in turns.iter().filter(|turn| turn.target_start < range.end && turn.target_end > range.start) {
            let first = if turn.target_start <= range.start { 0 } else { self.first_from(text, &range, turn.target_start, marked)? };
            let last = if turn.target_end >= range.end { self.ids.len() } else { self.first_past(text, &range, turn.target_end, marked)? };
            if first < last {
                sample.labels[from + first..from + last].copy_from_slice(&sample.input_ids[from + first..from + last]);
            }
        }
        Ok(())
    }

    /// Of the tokens `ids` of a part, the first that begins at `place` or behind it.
    fn first_from(&mut self, text: &str, range: &std::ops::Range<usize>, place: usize, marked: bool) -> Result<usize> {
        let head = Marks::removed(&text[range.start..place], marked);
        let known = self.head(&head)?;
        if self.ids.starts_with(&known) {
            return Ok(known.len());
        }
        let wanted = normalized_length(&head);
        let mut begin = 0;
        let lengths = self.lengths(text, range, marked)?;
        Ok(lengths.iter().take_while(|length| { let before = begin < wanted; begin += **length; before }).count())
    }

    /// Of the tokens `ids` of a part, the first that ends behind `place`.
    fn first_past(&mut self, text: &str, range: &std::ops::Range<usize>, place: usize, marked: bool) -> Result<usize> {
        let wanted = normalized_length(&Marks::removed(&text[range.start..place], marked));
        let mut end = 0;
        let lengths = self.lengths(text, range, marked)?;
        Ok(lengths.iter().take_while(|length| { end += **length; end <= wanted }).count())
    }

    fn lengths(&self, text: &str, range: &std::ops::Range<usize>, marked: bool) -> Result<Vec<usize>> {
        self.tokenizer.lengths(&Marks::removed(&text[range.clone()], marked), &self.ids)
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

/// The bytes of a text's normal form NFC.
fn normalized_length(text: &str) -> usize {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes { text.len() } else { text.nfc().map(char::len_utf8).sum() }
}

/// A text of the user's that spells a control token stays text: a mark inside it keeps the template's own apart from it, and goes
/// away before the text is tokenized.
#[derive(Debug)]
pub struct Marks;

/// A noncharacter: never part of text that is exchanged (Unicode, 23.7).
const MARK: char = '\u{FDD0}';

impl Marks {
    /// The conversation with marks, where a text of its spells a control token.
    pub fn set(conversation: &Conversation, tokenizer: &Tokenizer) -> Option<Conversation> {
        let spelt = |text: &str| tokenizer.control_tokens(text).next().is_some();
        let messages = &conversation.messages;
        let forged = messages.iter().any(|message| spelt(&message.content) || message.fields.values().any(|value| holds(value, &spelt)))
            || conversation.tools.iter().chain(&conversation.documents).any(|value| holds(value, &spelt))
            || conversation.chat_template_kwargs.values().any(|value| holds(value, &spelt));
        if !forged {
            return None;
        }
        let mark = |text: &str| {
            let text = text.replace(MARK, "");
            let mut marked = String::with_capacity(text.len() + 16);
            let mut done = 0;
            for (begin, _, _) in tokenizer.control_tokens(&text) {
                let second = begin + text[begin..].chars().next().map_or(0, char::len_utf8);
                marked.push_str(&text[done..second]);
                marked.push(MARK);
                done = second;
            }
            marked + &text[done..]
        };
        let mut conversation = conversation.clone();
        for message in &mut conversation.messages {
            message.content = mark(&message.content);
            message.fields.values_mut().for_each(|value| change(value, &mark));
        }
        conversation.tools.iter_mut().chain(&mut conversation.documents).for_each(|value| change(value, &mark));
        conversation.chat_template_kwargs.values_mut().for_each(|value| change(value, &mark));
        Some(conversation)
    }

    /// A text without its marks.
    fn removed(text: &str, marked: bool) -> Cow<'_, str> {
        if marked { Cow::Owned(text.replace(MARK, "")) } else { Cow::Borrowed(text) }
    }
}

/// Whether any text in a value meets `wanted`.
fn holds(value: &Value, wanted: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => wanted(text),
        Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
        Value::Object(map) => map.values().any(|item| holds(item, wanted)),
        _ => false,
    }
}

/// Changes every text in a value.
fn change(value: &mut Value, how: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = how(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, how)),
        Value::Object(map) => map.values_mut().for_each(|item| change(item, how)),
        _ => {}
    }
}
