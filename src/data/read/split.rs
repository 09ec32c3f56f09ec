//! Cuts a file's text into its items, the conversations: the elements of a JSON list, or JSON lines, where an object may span lines.
//! What is wrong between items is a fault; an item itself is judged by whoever reads it. After a fault the next item is looked for
//! where its beginning is clear; where it is not, the rest of the file is left unread, rather than misread.

use std::ops::Range;

use serde::de::IgnoredAny;

use crate::data::parse::json_error::{offset, words};
use crate::data::read::scan::{End, Scan};

/// A fault between items, or of the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// In the text; `None` for the file as a whole.
    pub at: Option<usize>,
    pub text: String,
}

/// Sizes, made small in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Bytes read at once, and about the size of a batch.
    pub block: usize,
    /// An item that has grown to this size without an end is looked at by a parser, and again at each doubling: where it is
    /// broken, it must not swallow the file.
    pub suspicious: usize,
    /// The largest item.
    pub item: usize,
}

pub(crate) const SIZES: Sizes = Sizes { block: 256 << 10, suspicious: 4 << 20, item: 1 << 30 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing but white space so far.
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
    /// JSON lines, after a broken item whose end is not clear: at the next `{` that begins a line.
    LinesSeek {
        line_start: bool,
    },
    /// Nothing more is to be learned from the file.
    Done,
}

/// An item whose end is not known yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    start: usize,
    sort: Sort,
    /// The size at which it is looked at.
    look: usize,
}

#[derive(Clone, Copy, Debug)]
enum Sort {
    /// An object or a list.
    Nested(Scan),
    /// A text in a list; looked at up to here.
    Text(usize),
    /// A number or a word in a list; looked at up to here.
    Word(usize),
    /// Anything but an object in JSON lines: up to the line's end; looked at up to here.
    Line(usize),
}

#[derive(Debug)]
pub(crate) struct Splitter {
    mode: Mode,
    /// Offset of the next byte to look at between items.
    at: usize,
    open: Option<Open>,
    /// JSON lines, not a list.
    lines: bool,
    sizes: Sizes,
    /// Items of this file so far.
    pub count: usize,
    pub items: Vec<Range<usize>>,
    pub faults: Vec<Fault>,
}

impl Splitter {
    pub fn new(sizes: Sizes) -> Splitter {
        Splitter { mode: Mode::Start, at: 0, open: None, lines: false, sizes, count: 0, items: Vec::new(), faults: Vec::new() }
    }

    /// Nothing more comes from this file.
    pub fn done(&self) -> bool {
        self.mode == Mode::Done
    }

    /// One object was all so far, and no list around it.
    pub fn lone_object(&self) -> bool {
        self.lines && self.count == 1 && self.open.is_none() && self.faults.is_empty()
    }

    /// Before this offset everything is settled.
    pub fn settled(&self) -> usize {
        self.open.map_or(self.at, |open| open.start)
    }

    /// The bytes before `cut` are gone, and so are items and faults that lay there.
    pub fn rebase(&mut self, cut: usize) {
        self.at = self.at.saturating_sub(cut);
        if let Some(open) = &mut self.open {
            open.start -= cut;
            match &mut open.sort {
                Sort::Nested(scan) => scan.rebase(cut),
                Sort::Text(at) | Sort::Word(at) | Sort::Line(at) => *at -= cut,
            }
        }
    }

    /// Goes on as far as the bytes reach; `last` if no more follow.
    pub fn split(&mut self, bytes: &[u8], last: bool) {
        while self.mode != Mode::Done {
            let more = if self.open.is_some() { self.item(bytes, last) } else { self.between(bytes, last) };
            if !more {
                return;
            }
        }
    }

    fn fault(&mut self, at: usize, text: impl Into<String>) {
        self.faults.push(Fault { at: Some(at), text: text.into() });
    }

    /// Up to the beginning of the next item. False: more bytes are needed, or none are left.
    fn between(&mut self, bytes: &[u8], last: bool) -> bool {
        if let Mode::LinesSeek { line_start } = self.mode {
            return self.seek(bytes, last, line_start);
        }
        self.at += bytes[self.at..].iter().take_while(|byte| is_space(**byte)).count();
        let Some(byte) = bytes.get(self.at).copied() else {
            if last {
                self.end(bytes);
            }
            return false;
        };
        match (self.mode, byte) {
            (Mode::Start, b'[') => self.step(Mode::ListBegun),
            (Mode::Start, b'{') => {
                self.lines = true;
                self.mode = Mode::Lines;
            }
            (Mode::Start, _) => {
                // A number, say, may be cut off.
                if bytes.len() - self.at < self.sizes.block && !last {
                    return false;
                }
                let text = no_list(&bytes[self.at..]);
                self.fault(self.at, text);
                self.mode = Mode::Done;
            }
            (Mode::ListBegun | Mode::ListItem, b']') => self.step(Mode::ListEnded),
            (Mode::ListComma, b']') => {
                self.fault(self.at, "invalid JSON: trailing comma; remove it");
                self.step(Mode::ListEnded);
            }
            (Mode::ListItem, b',') => self.step(Mode::ListComma),
            (Mode::ListBegun | Mode::ListComma, b',') => {
                self.fault(self.at, "invalid JSON: expected value; remove the comma");
                self.step(Mode::ListComma);
            }
            (Mode::ListItem, _) => {
                self.fault(self.at, "invalid JSON: expected `,` or `]`; a comma stands between conversations");
                self.begin(byte);
            }
            (Mode::ListEnded, _) => {
                self.fault(self.at, "invalid JSON: trailing characters; nothing may follow the list");
                self.mode = Mode::Done;
            }
            (Mode::Lines, b',') => {
                self.fault(self.at, "invalid JSON: a comma between JSON lines; remove it, or put the lines between [ and ]");
                self.step(Mode::Lines);
            }
            (Mode::ListBegun | Mode::ListComma | Mode::Lines, _) => self.begin(byte),
            (Mode::LinesSeek { .. } | Mode::Done, _) => {}
        }
        true
    }

    fn step(&mut self, mode: Mode) {
        self.at += 1;
        self.mode = mode;
    }

    fn begin(&mut self, byte: u8) {
        let start = self.at;
        let sort = match byte {
            b'{' => Sort::Nested(Scan::new(start)),
            _ if self.mode == Mode::Lines => Sort::Line(start),
            b'[' => Sort::Nested(Scan::new(start)),
            b'"' => Sort::Text(start + 1),
            _ => Sort::Word(start + 1),
        };
        self.open = Some(Open { start, sort, look: self.sizes.suspicious });
    }

    /// To the next line that begins with `{`; `line_start` tells whether a line begins here.
    fn seek(&mut self, bytes: &[u8], last: bool, line_start: bool) -> bool {
        let rest = &bytes[self.at..];
        let found = if line_start && rest.starts_with(b"{") { Some(0) } else { memchr::memmem::find(rest, b"\n{").map(|found| found + 1) };
        match found {
            Some(found) => {
                self.at += found;
                self.mode = Mode::Lines;
            }
            None => {
                self.at = bytes.len();
                self.mode =
                    if last { Mode::Done } else { Mode::LinesSeek { line_start: rest.last().map_or(line_start, |byte| *byte == b'\n') } };
            }
        }
        found.is_some()
    }

    /// The end of the file, between items.
    fn end(&mut self, bytes: &[u8]) {
        match self.mode {
            Mode::ListBegun | Mode::ListItem => self.fault(bytes.len(), "invalid JSON: EOF while parsing a list; the file is cut off"),
            Mode::ListComma => self.fault(bytes.len(), "invalid JSON: EOF while parsing a value; the file is cut off"),
            _ if self.count == 0 && self.faults.is_empty() => {
                let text = "holds no conversations; it must be a list of {\"messages\": [...]}".into();
                self.faults.push(Fault { at: None, text });
            }
            _ => {}
        }
        self.mode = Mode::Done;
    }

    /// Goes on within an item. False: more bytes are needed.
    fn item(&mut self, bytes: &[u8], last: bool) -> bool {
        let lines = self.lines;
        let Some(open) = &mut self.open else { return true };
        let start = open.start;
        let end = match &mut open.sort {
            Sort::Nested(scan) => scan.run(bytes, last, lines),
            Sort::Text(at) => text_end(bytes, at),
            Sort::Word(at) => match bytes[*at..].iter().position(|byte| is_space(*byte) || matches!(byte, b',' | b']' | b'}')) {
                Some(found) => End::At(*at + found),
                None if last => End::At(bytes.len()),
                None => {
                    *at = bytes.len();
                    End::Unknown
                }
            },
            Sort::Line(at) => match memchr::memchr(b'\n', &bytes[*at..]) {
                Some(found) => End::At(*at + found),
                None if last => End::At(bytes.len()),
                None => {
                    *at = bytes.len();
                    End::Unknown
                }
            },
        };
        match end {
            End::At(end) => {
                // Where a ] closes a {, one of both is missing, and it is not clear what belongs to what.
                let unlike = matches!((bytes[start], bytes[end - 1]), (b'{', b']') | (b'[', b'}'));
                let next = match (lines, unlike) {
                    (true, true) => Mode::LinesSeek { line_start: false },
                    (true, false) => Mode::Lines,
                    (false, true) => Mode::Done,
                    (false, false) => Mode::ListItem,
                };
                self.close(end, next);
            }
            End::Broken(at) => {
                let end = self.own_line(&bytes[..at]).unwrap_or(at);
                self.broken(bytes, end);
            }
            // Lines of which each opens what it does not close; else it goes on, and a parser says so.
            End::TooDeep => {
                if let Some(end) = self.own_line(bytes) {
                    self.broken(bytes, end);
                }
            }
            End::Unknown if last => {
                let end = self.own_line(bytes).unwrap_or(bytes.len());
                self.broken(bytes, end);
            }
            End::Unknown => return self.grown(bytes),
        }
        true
    }

    /// Ends the item, which does not close, with the line end at `at`, or with the bytes.
    fn broken(&mut self, bytes: &[u8], at: usize) {
        let next = if self.lines { Mode::LinesSeek { line_start: true } } else { Mode::Done };
        // The line end belongs to it, so that its reader stumbles there.
        self.close((at + 1).min(bytes.len()), next);
    }

    fn close(&mut self, end: usize, next: Mode) {
        if let Some(open) = self.open.take() {
            self.items.push(open.start..end);
            self.count += 1;
            self.at = end;
            self.mode = next;
        }
    }

    /// In JSON lines: the end of the line after which, within the open item, an object begins a line.
    fn own_line(&self, bytes: &[u8]) -> Option<usize> {
        let start = self.open.filter(|_| self.lines)?.start;
        memchr::memmem::find(&bytes[start..], b"\n{").map(|found| start + found)
    }

    /// Looks at an item that grows and grows. False: it is well so far, and more bytes are needed.
    fn grown(&mut self, bytes: &[u8]) -> bool {
        let Some(open) = &mut self.open else { return true };
        let size = bytes.len() - open.start;
        if size > self.sizes.item {
            let (at, limit) = (open.start, self.sizes.item);
            self.fault(at, format!("the conversation is larger than {limit} bytes, or its end is missing; split it or remove it"));
            self.open = None;
            self.at = bytes.len();
            self.mode = Mode::Done;
            return true;
        }
        if size < open.look {
            return false;
        }
        open.look = 2 * size;
        let text = &bytes[open.start..];
        // The last bytes were not scanned yet: it may be whole, and more may follow. A number that ends with the bytes reads as a
        // syntax error too, so an error counts only before the end.
        let first = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>().next();
        let nested = matches!(open.sort, Sort::Nested(_));
        let broken = nested && matches!(first, Some(Err(cause)) if cause.is_syntax() && offset(text, &cause) + 1 < size);
        if broken {
            let end = self.own_line(bytes).unwrap_or(bytes.len());
            self.broken(bytes, end);
        }
        broken
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t' | b'\r')
}

/// The end of a text that was looked at up to `at`.
fn text_end(bytes: &[u8], at: &mut usize) -> End {
    loop {
        match memchr::memchr3(b'"', b'\\', b'\n', &bytes[*at..]) {
            None => {
                *at = bytes.len();
                return End::Unknown;
            }
            Some(found) => match bytes[*at + found] {
                b'"' => return End::At(*at + found + 1),
                b'\n' => return End::Broken(*at + found),
                // The escaped character must be there too.
                _ if *at + found + 1 < bytes.len() => *at += found + 2,
                _ => {
                    *at += found;
                    return End::Unknown;
                }
            },
        }
    }
}

/// What a file holds that begins with neither `[` nor `{`.
fn no_list(bytes: &[u8]) -> String {
    let known: [(&[u8], &str); 7] = [
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
        (b"PK\x03\x04", "a zip archive"),
        (b"PAR1", "Parquet"),
        (b"ARROW1", "Arrow"),
        (b"BZh", "packed by bzip2"),
        (b"\xfd7zXZ", "packed by xz"),
    ];
    if let Some((_, what)) = known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return format!("the file is {what}; give JSON in UTF-8, plain or packed by gzip or zstd");
    }
    if std::str::from_utf8(bytes).is_err_and(|cause| cause.valid_up_to() == 0) {
        return "not UTF-8; save the file as UTF-8".into();
    }
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Err(cause)) if !cause.is_eof() => format!("invalid JSON: {}", words(&cause)),
        _ => {
            let sort = match bytes.first() {
                Some(b'"') => "a text",
                Some(b't' | b'f') => "true or false",
                Some(b'n') => "null",
                _ => "a number",
            };
            format!("the file holds {sort}, not a list of conversations")
        }
    }
}
