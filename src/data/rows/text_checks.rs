//! What in the words of a conversation is rarely meant: characters that nobody sees, answers without words, answers that repeat the prompt.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::data::parse::conversation::{ChatMessage, Conversation, Role, SampleKind};
use crate::data::render::rendering::place;
use crate::data::render::thinking::after_thinking;

/// A character that is not printed: how often it occurs, and the first place.
pub(crate) type Unprinted = BTreeMap<char, (u64, String)>;

/// What may be wrong with a trained answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerFault {
    Empty,
    RepeatsPrompt,
}

impl AnswerFault {
    pub(crate) const ALL: [AnswerFault; 2] = [AnswerFault::Empty, AnswerFault::RepeatsPrompt];

    /// Words that follow "3 answers ", and those of one answer.
    pub(crate) fn text(self) -> [&'static str; 2] {
        match self {
            AnswerFault::Empty => ["have", "has"],
            AnswerFault::RepeatsPrompt => ["repeat", "repeats"],
        }
    }

    pub(crate) fn rest(self) -> &'static str {
        match self {
            AnswerFault::Empty => "no words besides reasoning, so the model learns to say nothing",
            AnswerFault::RepeatsPrompt => "the words of the user before it, so the model learns to repeat",
        }
    }
}

/// Counts the characters of a conversation's strings that are not printed.
pub(crate) fn count_unprinted(conversation: &Conversation, found: &mut Unprinted) {
    for (i, message) in conversation.messages.iter().enumerate() {
        let mut note = |symbol| add(found, symbol, 1, || place(conversation.index, Some(i)));
        unprinted(&message.content, &mut note);
        of_fields(&message.fields, &mut note);
    }
    let mut note = |symbol| add(found, symbol, 1, || place(conversation.index, None));
    conversation.tools.iter().chain(&conversation.documents).for_each(|value| of_value(value, &mut note));
}

/// Adds occurrences, of which the first known place stays.
pub(crate) fn add(found: &mut Unprinted, symbol: char, count: u64, first: impl FnOnce() -> String) {
    found.entry(symbol).or_insert_with(|| (0, first())).0 += count;
}

fn of_value(value: &Value, note: &mut impl FnMut(char)) {
    match value {
        Value::String(text) => unprinted(text, note),
        Value::Array(items) => items.iter().for_each(|item| of_value(item, note)),
        Value::Object(fields) => of_fields(fields, note),
        _ => {}
    }
}

fn of_fields(fields: &Map<String, Value>, note: &mut impl FnMut(char)) {
    for (name, value) in fields {
        unprinted(name, note);
        of_value(value, note);
    }
}

/// Calls `note` with each character that is not printed.
fn unprinted(text: &str, note: &mut impl FnMut(char)) {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(at) = next_candidate(bytes, from) {
        let mut symbols = text[at..].chars();
        let Some(symbol) = symbols.next() else { return };
        if is_unprinted(symbol, text[..at].chars().next_back(), symbols.next()) {
            note(symbol);
        }
        from = at + symbol.len_utf8();
    }
}

/// The first byte at or after `from` with which a character may begin that is not printed. Most blocks of text have none; they are passed with
/// vector instructions, for which a block is looked at as a whole.
fn next_candidate(bytes: &[u8], from: usize) -> Option<usize> {
    const BLOCK: usize = 64;
    let rest = &bytes[from..];
    let (blocks, tail) = rest.as_chunks::<BLOCK>();
    let found = blocks.iter().enumerate().find_map(|(i, block)| Some(from + i * BLOCK + candidate_in(block)?));
    found.or_else(|| match rest.last_chunk::<BLOCK>() {
        // With the bytes before them, which have none, the last bytes are a block too.
        Some(last) if !tail.is_empty() => Some(bytes.len() - BLOCK + candidate_in(last)?),
        _ => Some(bytes.len() - tail.len() + candidate_in(tail)?),
    })
}

#[inline]
fn candidate_in(block: &[u8]) -> Option<usize> {
    if !any(block, may_begin_candidate) || !any(block, begins_candidate) {
        return None;
    }
    block.iter().position(|byte| begins_candidate(*byte))
}

#[inline]
fn any(block: &[u8], wanted: impl Fn(u8) -> bool) -> bool {
    block.iter().fold(false, |any, byte| any | wanted(*byte))
}

/// Whether a byte is a control character or not ASCII: what few comparisons can tell.
#[expect(clippy::needless_bitwise_bool, reason = "without branches the compiler looks at a whole vector of bytes")]
const fn may_begin_candidate(byte: u8) -> bool {
    ((byte as i8) < 0x20) & (byte != b'\n') & (byte != b'\t') | (byte == 0x7f)
}

/// Whether a byte is a control character, or the first one of such characters in UTF-8 as `is_unprinted` knows.
#[expect(clippy::needless_bitwise_bool, reason = "without branches the compiler looks at a whole vector of bytes")]
const fn begins_candidate(byte: u8) -> bool {
    (byte < 0x20) & (byte != b'\n') & (byte != b'\t')
        | (byte == 0x7f)
        | (byte == 0xc2)
        | (byte == 0xe1)
        | (byte == 0xe2)
        | (byte == 0xef)
        | (byte == 0xf3)
}

/// Calls `take` with each character, and whether it is printed or has a use between its neighbours.
pub(crate) fn each_symbol(text: &str, take: &mut impl FnMut(char, bool)) {
    let mut before = None;
    let mut symbols = text.chars().peekable();
    while let Some(symbol) = symbols.next() {
        take(symbol, !is_unprinted(symbol, before, symbols.peek().copied()));
        before = Some(symbol);
    }
}

/// Whether a character is not printed and has no use between its neighbours.
fn is_unprinted(symbol: char, before: Option<char>, after: Option<char>) -> bool {
    let joins = |neighbour: Option<char>| neighbour.is_some_and(|c| !c.is_ascii() && !c.is_whitespace());
    match symbol {
        '\n' | '\t' => false,
        // The end of a line under Windows.
        '\r' => after != Some('\n'),
        // They join letters of Persian or Hindi, and emoji.
        '\u{200c}' | '\u{200d}' => !(joins(before) && joins(after) || symbol == '\u{200c}' && joins(before)),
        // The flags of England, Scotland and Wales.
        '\u{e0020}'..='\u{e007f}' => !matches!(before, Some('\u{1f3f4}' | '\u{e0020}'..='\u{e007f}')),
        '\u{ad}'
        | '\u{180e}'
        | '\u{200b}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{2060}'..='\u{2064}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffd}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{e0000}'..='\u{e001f}' => true,
        _ => symbol.is_control(),
    }
}

/// `U+200B (zero-width space)`.
pub(crate) fn name(symbol: char) -> String {
    let name = match symbol {
        '\0' => "null",
        '\u{8}' => "backspace",
        '\r' => "carriage return",
        '\u{1b}' => "escape",
        '\u{ad}' => "soft hyphen",
        '\u{200b}' => "zero-width space",
        '\u{200c}' => "zero-width non-joiner",
        '\u{200d}' => "zero-width joiner",
        '\u{2028}' => "line separator",
        '\u{2029}' => "paragraph separator",
        '\u{2060}' => "word joiner",
        '\u{feff}' => "byte order mark",
        '\u{fffd}' => "replacement character: text was decoded wrongly",
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "changes the direction of text",
        '\u{e0000}'..='\u{e007f}' => "tag",
        symbol if symbol.is_control() => "control character",
        _ => "invisible",
    };
    format!("U+{:04X} ({name})", symbol as u32)
}

/// What is wrong with the trained answers of a conversation, with the index of the message.
pub(crate) fn answer_faults(conversation: &Conversation) -> impl Iterator<Item = (AnswerFault, usize)> {
    let messages = if conversation.kind == SampleKind::Chat { conversation.messages.as_slice() } else { &[] };
    let is_answer = |message: &ChatMessage| message.role == Role::Assistant && message.train && !message.has_tool_calls();
    messages.iter().enumerate().filter(move |(_, message)| is_answer(message)).filter_map(|(i, message)| {
        let answer = after_thinking(&message.content).unwrap_or(&message.content).trim_start();
        if answer.is_empty() {
            return Some((AnswerFault::Empty, i));
        }
        let asked = i.checked_sub(1).map(|before| &messages[before]).filter(|before| before.role == Role::User)?.content.trim_start();
        // Most differ in their first byte, and need no more.
        let repeats = asked.as_bytes().first() == answer.as_bytes().first() && asked.trim_end() == answer.trim_end();
        repeats.then_some((AnswerFault::RepeatsPrompt, i))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<char> {
        let mut all = Vec::new();
        unprinted(text, &mut |symbol| all.push(symbol));
        all
    }

    #[test]
    fn every_character_that_is_not_printed_is_looked_at() {
        for symbol in '\0'..=char::MAX {
            let begins = begins_candidate(symbol.to_string().as_bytes()[0]);
            assert!(begins || !is_unprinted(symbol, None, None) && !is_unprinted(symbol, Some('a'), Some('a')), "{symbol:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn blocks_miss_nothing(text in "[a-zé你 \n\r\t\u{200b}-\u{200e}\u{7f}\u{0}\u{1f3f4}\u{e0067}]{0,300}") {
            let mut each = Vec::new();
            each_symbol(&text, &mut |symbol, printed| if !printed { each.push(symbol); });
            proptest::prop_assert_eq!(found(&text), each);
        }
    }

    #[test]
    fn what_is_not_printed_is_found_unless_the_script_needs_it() {
        let unseen = "\0a\u{200b}b\u{feff}\u{fffd}\u{1b}[m\u{ad}\u{202e}\u{85}\u{7f}\u{200d}x";
        assert_eq!(
            found(unseen),
            ['\0', '\u{200b}', '\u{feff}', '\u{fffd}', '\u{1b}', '\u{ad}', '\u{202e}', '\u{85}', '\u{7f}', '\u{200d}']
        );
        let flag = "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}";
        for fine in ["a\tb\r\nc", "Grüße 你好 é", "👩\u{200d}💻", "می\u{200c}خواهم", "क्\u{200d}ष", flag] {
            assert_eq!(found(fine), Vec::<char>::new(), "{fine:?}");
        }
        assert_eq!(found("a\rb"), ['\r']);
        assert_eq!(name('\u{200b}'), "U+200B (zero-width space)");
    }
}
