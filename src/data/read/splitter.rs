//! Splits a file's text into items (conversations): the elements of a JSON list, or JSON Lines, where an object may span lines. Errors between
//! items are reported here; the items themselves are validated by the parser. After an error, splitting continues at the next item if its
//! start is unambiguous. Otherwise the rest of the file is skipped.

use std::ops::Range;

use serde::de::IgnoredAny;

use crate::data::parse::json_error::{error_offset, message_without_position};
use crate::data::read::scanner::{Scanner, ValueEnd};
use crate::data::read::size_limits::{MAX_RECORD, SizeLimits};

/// An error between items, or of the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FramingError {
    /// Offset in the text; `None` for the file as a whole.
    pub at: Option<usize>,
    pub text: String,
    /// The text is not what was written, so other errors in the file mean nothing.
    pub is_corruption: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SplitState {
    /// Only whitespace so far.
    Start,
    /// In a list, before its first item.
    ListBegun,
    /// In a list, after a comma.
    ListComma,
    /// In a list, after an item.
    ListItem,
    /// After the list.
    ListEnded,
    Lines,
    /// JSON Lines, after a broken item whose end is ambiguous: skips to the next `{` at the start of a line.
    LinesSeek {
        line_start: bool,
    },
    /// The rest of the file is not read.
    Done,
}

/// An item whose end is not known yet.
#[derive(Clone, Copy, Debug)]
struct OpenItem {
    start: usize,
    kind: ItemKind,
    /// The size at which it is checked by a parser.
    check_at: usize,
}

#[derive(Clone, Copy, Debug)]
enum ItemKind {
    /// An object or a list.
    Nested(Scanner),
    /// A string in a list, scanned up to this offset.
    String(usize),
    /// A number or a word in a list, scanned up to this offset.
    Word(usize),
    /// Anything but an object in JSON Lines, up to the end of the line; scanned up to this offset.
    Line(usize),
}

#[derive(Debug)]
pub(crate) struct Splitter {
    state: SplitState,
    /// Offset of the next byte between items.
    at: usize,
    open: Option<OpenItem>,
    /// Whether the file is JSON Lines, not a list.
    lines: bool,
    sizes: SizeLimits,
    /// Items of this file so far.
    pub count: usize,
    pub items: Vec<Range<usize>>,
    pub errors: Vec<FramingError>,
}

impl Splitter {
    pub fn new(sizes: SizeLimits) -> Splitter {
        Splitter { state: SplitState::Start, at: 0, open: None, lines: false, sizes, count: 0, items: Vec::new(), errors: Vec::new() }
    }

    /// Whether this file has ended.
    pub fn done(&self) -> bool {
        self.state == SplitState::Done
    }

    /// Reports an error of the whole file, and reads no more of it.
    pub fn stop(&mut self, at: usize, text: String) {
        self.add_error(at, text);
        self.open = None;
        self.state = SplitState::Done;
    }

    /// Whether the file so far is a single object without a list around it.
    pub fn lone_object(&self) -> bool {
        self.lines && self.count == 1 && self.open.is_none() && self.errors.is_empty()
    }

    /// Everything before this offset is complete.
    pub fn settled(&self) -> usize {
        self.open.map_or(self.at, |open| open.start)
    }

    /// Adjusts offsets after the bytes before `cut` have been removed, with the items and errors in them.
    pub fn rebase(&mut self, cut: usize) {
        self.at = self.at.saturating_sub(cut);
        if let Some(open) = &mut self.open {
            open.start -= cut;
            match &mut open.kind {
                ItemKind::Nested(scan) => scan.rebase(cut),
                ItemKind::String(at) | ItemKind::Word(at) | ItemKind::Line(at) => *at -= cut,
            }
        }
    }

    /// Splits the available bytes. `last`: no more bytes follow.
    pub fn split(&mut self, bytes: &[u8], last: bool) {
        while self.state != SplitState::Done {
            let more = if self.open.is_some() { self.item(bytes, last) } else { self.between(bytes, last) };
            if !more {
                return;
            }
        }
    }

    fn add_error(&mut self, at: usize, text: impl Into<String>) {
        self.errors.push(FramingError { at: Some(at), text: text.into(), is_corruption: false });
    }

    /// Skips to the start of the next item. Returns false if more bytes are needed or the file has ended.
    fn between(&mut self, bytes: &[u8], last: bool) -> bool {
        if let SplitState::LinesSeek { line_start } = self.state {
            return self.seek(bytes, last, line_start);
        }
        self.at += bytes[self.at..].iter().take_while(|byte| is_space(**byte)).count();
        let Some(byte) = bytes.get(self.at).copied() else {
            if last {
                self.end(bytes);
            }
            return false;
        };
        match (self.state, byte) {
            (state, b'#' | b'/') if state != SplitState::Done && is_comment(&bytes[self.at..]) => return self.skip_comment(bytes, last),
            (SplitState::Start, b'[') => self.advance(SplitState::ListBegun),
            (SplitState::Start, b'{') => {
                self.lines = true;
                self.state = SplitState::Lines;
            }
            (SplitState::Start, _) => {
                // A value such as a number may be incomplete.
                if bytes.len() - self.at < self.sizes.block && !last {
                    return false;
                }
                // What looked like comments belongs to a text in another format.
                let start = self.errors.drain(..).find_map(|error| error.at).unwrap_or(self.at);
                self.add_error(start, describe_non_list(&bytes[start..]));
                self.state = SplitState::Done;
            }
            (SplitState::ListBegun | SplitState::ListItem, b']') => self.advance(SplitState::ListEnded),
            (SplitState::ListComma, b']') => {
                self.add_error(self.at, "invalid JSON: trailing comma; remove it");
                self.advance(SplitState::ListEnded);
            }
            (SplitState::ListItem, b',') => self.advance(SplitState::ListComma),
            (SplitState::ListBegun | SplitState::ListComma, b',') => {
                self.add_error(self.at, "invalid JSON: expected value; remove the comma");
                self.advance(SplitState::ListComma);
            }
            (SplitState::ListItem, _) => {
                self.add_error(self.at, "invalid JSON: expected `,` or `]`; add a comma between conversations");
                self.begin(byte);
            }
            (SplitState::ListEnded, _) => {
                self.add_error(self.at, "invalid JSON: trailing characters; nothing may follow the list");
                self.state = SplitState::Done;
            }
            (SplitState::Lines, b',') => {
                self.add_error(self.at, "invalid JSON: a comma between JSON lines; remove it, or put the lines between [ and ]");
                self.advance(SplitState::Lines);
            }
            (SplitState::ListBegun | SplitState::ListComma | SplitState::Lines, _) => self.begin(byte),
            (SplitState::LinesSeek { .. } | SplitState::Done, _) => {}
        }
        true
    }

    /// Reports a comment and skips its line. Returns false if its end is not there yet.
    fn skip_comment(&mut self, bytes: &[u8], last: bool) -> bool {
        let end = match memchr::memchr(b'\n', &bytes[self.at..]) {
            Some(end) => self.at + end,
            None if last => bytes.len(),
            None => return false,
        };
        self.add_error(self.at, "invalid JSON: a comment, which JSON does not have; remove it");
        self.at = end;
        true
    }

    fn advance(&mut self, state: SplitState) {
        self.at += 1;
        self.state = state;
    }

    fn begin(&mut self, byte: u8) {
        let start = self.at;
        let kind = match byte {
            b'{' => ItemKind::Nested(Scanner::new(start)),
            _ if self.state == SplitState::Lines => ItemKind::Line(start),
            b'[' => ItemKind::Nested(Scanner::new(start)),
            b'"' => ItemKind::String(start + 1),
            _ => ItemKind::Word(start + 1),
        };
        self.open = Some(OpenItem { start, kind, check_at: self.sizes.suspicious });
    }

    /// Skips to the next line that starts with `{`. `line_start`: whether a line starts here.
    fn seek(&mut self, bytes: &[u8], last: bool, line_start: bool) -> bool {
        let rest = &bytes[self.at..];
        let found = if line_start && rest.starts_with(b"{") { Some(0) } else { memchr::memmem::find(rest, b"\n{").map(|found| found + 1) };
        match found {
            Some(found) => {
                self.at += found;
                self.state = SplitState::Lines;
            }
            None => {
                self.at = bytes.len();
                self.state = if last {
                    SplitState::Done
                } else {
                    SplitState::LinesSeek { line_start: rest.last().map_or(line_start, |byte| *byte == b'\n') }
                };
            }
        }
        found.is_some()
    }

    /// Handles the end of the file between items.
    fn end(&mut self, bytes: &[u8]) {
        match self.state {
            SplitState::ListBegun | SplitState::ListItem => {
                self.add_error(bytes.len(), "invalid JSON: EOF while parsing a list; the file is truncated");
            }
            SplitState::ListComma => self.add_error(bytes.len(), "invalid JSON: EOF while parsing a value; the file is truncated"),
            _ if self.count == 0 && self.errors.is_empty() => {
                let text = "contains no conversations; it must be a list of {\"messages\": [...]}".into();
                self.errors.push(FramingError { at: None, text, is_corruption: false });
            }
            _ => {}
        }
        self.state = SplitState::Done;
    }

    /// Scans within an item. Returns false if more bytes are needed.
    fn item(&mut self, bytes: &[u8], last: bool) -> bool {
        let lines = self.lines;
        let Some(open) = &mut self.open else { return true };
        let start = open.start;
        let end = match &mut open.kind {
            ItemKind::Nested(scan) => scan.run(bytes, last, lines),
            ItemKind::String(at) => string_end(bytes, at),
            ItemKind::Word(at) => match bytes[*at..].iter().position(|byte| is_space(*byte) || matches!(byte, b',' | b']' | b'}')) {
                Some(found) => ValueEnd::At(*at + found),
                None if last => ValueEnd::At(bytes.len()),
                None => {
                    *at = bytes.len();
                    ValueEnd::Unknown
                }
            },
            ItemKind::Line(at) => match memchr::memchr(b'\n', &bytes[*at..]) {
                Some(found) => ValueEnd::At(*at + found),
                None if last => ValueEnd::At(bytes.len()),
                None => {
                    *at = bytes.len();
                    ValueEnd::Unknown
                }
            },
        };
        match end {
            ValueEnd::At(end) => {
                // If a ] closes a {, a bracket is missing, and the boundaries of items are ambiguous.
                let mismatched = matches!((bytes[start], bytes[end - 1]), (b'{', b']') | (b'[', b'}'));
                let next = match (lines, mismatched) {
                    (true, true) => SplitState::LinesSeek { line_start: false },
                    (true, false) => SplitState::Lines,
                    (false, true) => SplitState::Done,
                    (false, false) => SplitState::ListItem,
                };
                self.close(end, next);
            }
            ValueEnd::Broken(at) => {
                let end = self.end_before_next_object(&bytes[..at]).unwrap_or(at);
                self.broken(bytes, end);
            }
            // Several unclosed lines in a row are one broken item each. Otherwise scanning continues, and the parser reports the nesting.
            ValueEnd::TooDeep => {
                if let Some(end) = self.end_before_next_object(bytes) {
                    self.broken(bytes, end);
                }
            }
            ValueEnd::Unknown if last => {
                let end = self.end_before_next_object(bytes).unwrap_or(bytes.len());
                self.broken(bytes, end);
            }
            ValueEnd::Unknown => return self.check_large_item(bytes),
        }
        true
    }

    /// Ends an unclosed item at the line end `at`, or at the end of the bytes.
    fn broken(&mut self, bytes: &[u8], at: usize) {
        let next = if self.lines { SplitState::LinesSeek { line_start: true } } else { SplitState::Done };
        // The item includes the line end, so that the parser reports the error there.
        self.close((at + 1).min(bytes.len()), next);
    }

    fn close(&mut self, end: usize, next: SplitState) {
        if let Some(open) = self.open.take() {
            self.items.push(open.start..end);
            self.count += 1;
            self.at = end;
            self.state = next;
        }
    }

    /// In JSON Lines: the first line end within the open item that is followed by a `{`.
    fn end_before_next_object(&self, bytes: &[u8]) -> Option<usize> {
        let start = self.open.filter(|_| self.lines)?.start;
        memchr::memmem::find(&bytes[start..], b"\n{").map(|found| start + found)
    }

    /// Checks a large unfinished item. Returns false if it is valid so far and more bytes are needed.
    fn check_large_item(&mut self, bytes: &[u8]) -> bool {
        let Some(open) = &mut self.open else { return true };
        let size = bytes.len() - open.start;
        if size > self.sizes.item {
            let (at, limit) = (open.start, self.sizes.item);
            self.add_error(
                at,
                format!("the conversation is larger than {limit} bytes, or its end is missing; split it or remove it, or set {MAX_RECORD}"),
            );
            self.open = None;
            self.at = bytes.len();
            self.state = SplitState::Done;
            return true;
        }
        if size < open.check_at {
            return false;
        }
        open.check_at = 2 * size;
        let text = &bytes[open.start..];
        // The last bytes have not been scanned yet, so the item may be complete. A number at the end of the bytes can look like a syntax
        // error, so only errors before the end count.
        let first = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>().next();
        let nested = matches!(open.kind, ItemKind::Nested(_));
        let broken = nested && matches!(first, Some(Err(cause)) if cause.is_syntax() && error_offset(text, &cause) + 1 < size);
        if broken {
            let end = self.end_before_next_object(bytes).unwrap_or(bytes.len());
            self.broken(bytes, end);
        }
        broken
    }
}

/// `# …` or `// …`.
fn is_comment(bytes: &[u8]) -> bool {
    bytes.starts_with(b"#") || bytes.starts_with(b"//")
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t' | b'\r')
}

/// The end of a string that was scanned up to `at`.
fn string_end(bytes: &[u8], at: &mut usize) -> ValueEnd {
    loop {
        match memchr::memchr3(b'"', b'\\', b'\n', &bytes[*at..]) {
            None => {
                *at = bytes.len();
                return ValueEnd::Unknown;
            }
            Some(found) => match bytes[*at + found] {
                b'"' => return ValueEnd::At(*at + found + 1),
                b'\n' => return ValueEnd::Broken(*at + found),
                // The escaped character must be available too.
                _ if *at + found + 1 < bytes.len() => *at += found + 2,
                _ => {
                    *at += found;
                    return ValueEnd::Unknown;
                }
            },
        }
    }
}

/// The start of a text, if it is one.
fn first_words(bytes: &[u8]) -> Option<&str> {
    const SHOWN_BYTES: usize = 40;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let shown = &line[..line.len().min(SHOWN_BYTES)];
    let text = std::str::from_utf8(shown).or_else(|cause| std::str::from_utf8(&shown[..cause.valid_up_to()])).ok()?.trim_end();
    (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
}

/// Describes a file that starts with neither `[` nor `{`.
fn describe_non_list(bytes: &[u8]) -> String {
    let known: [(&[u8], &str); 12] = [
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
        (b"PK\x03\x04", "a zip archive"),
        (b"PAR1", "Parquet"),
        (b"ARROW1", "Arrow"),
        (b"%PDF", "a PDF document"),
        (b"<", "HTML or XML"),
        (b"\x89PNG", "an image"),
        (b"GGUF", "a GGUF model"),
        (b"SQLite format 3", "an SQLite database"),
        (b"BZh", "compressed with bzip2"),
        (b"\xfd7zXZ", "compressed with xz"),
    ];
    if let Some((_, what)) = known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return format!("the file is {what}; give JSON in UTF-8, plain or compressed with gzip or zstd");
    }
    if std::str::from_utf8(bytes).is_err_and(|cause| cause.valid_up_to() == 0) {
        return "not UTF-8; save the file as UTF-8".into();
    }
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Err(cause)) if !cause.is_eof() => match first_words(bytes) {
            Some(words) => format!(
                "the file is not JSON: it begins with {words:?}. Data are JSON, JSON Lines, CSV, TSV, Parquet or Arrow; plain text is \
                 written as {{\"text\": …}}, one object for each text"
            ),
            None => format!("invalid JSON: {}", message_without_position(&cause)),
        },
        _ => {
            let json_type = match bytes.first() {
                Some(b'"') => "a string",
                Some(b't' | b'f') => "true or false",
                Some(b'n') => "null",
                _ => "a number",
            };
            format!("the file contains {json_type}, not a list of conversations")
        }
    }
}
