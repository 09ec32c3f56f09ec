//! Reads CSV and TSV (RFC 4180) as JSON lines, so that the other stages need not know tables.
//!
//! Each record becomes one line of JSON at the line where the record begins, so that problems name the line of the table. An empty cell is
//! an absent field. Cells are strings; the parser decodes those that hold JSON text.

use std::fmt;
use std::io;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use crate::base::numbers::counted;
use crate::data::parse::item_keys::TRAIN_NAMES;
use crate::data::read::size_limits::size_limits;

/// What is wrong with a table, as words that follow the file's name.
#[derive(Debug)]
pub(crate) struct TableError(pub String);

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TableError {}

/// Whether a file's name says that it is a table: `.csv` or `.tsv`, also compressed.
pub(crate) fn is_table(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = [".gz", ".zst", ".zip"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    [".csv", ".tsv"].iter().any(|end| name.ends_with(end))
}

/// Bytes looked at to find the separator.
const HEAD: u64 = 1 << 16;

/// The table as JSON lines, or the text unchanged if it is JSON in spite of its name. The flag says which.
pub(crate) fn open(mut text: Box<dyn Read + Send>) -> io::Result<(Box<dyn Read + Send>, bool)> {
    let mut head = Vec::new();
    text.by_ref().take(HEAD).read_to_end(&mut head)?;
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    let is_json = matches!(first, Some(b'{' | b'['));
    let separator = separator(&head);
    let text: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(text));
    if is_json {
        return Ok((text, false));
    }
    let taken = Arc::new(AtomicUsize::new(0));
    let text = RecordLimit { text, taken: Arc::clone(&taken), limit: size_limits().map_err(io::Error::other)?.item };
    let reader =
        ReaderBuilder::new().delimiter(separator).flexible(true).has_headers(false).from_reader(Box::new(text) as Box<dyn Read + Send>);
    Ok((Box::new(TableText { reader, header: Vec::new(), record: StringRecord::new(), line: 1, out: Vec::new(), at: 0, taken }), true))
}

/// The separator that the header has most often outside quotes.
fn separator(head: &[u8]) -> u8 {
    let mut quoted = false;
    let mut counts = [(b',', 0), (b'\t', 0), (b';', 0)];
    for byte in head {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => break,
            _ if !quoted => counts.iter_mut().filter(|(one, _)| one == byte).for_each(|(_, count)| *count += 1),
            _ => {}
        }
    }
    // The first of equals, so a comma if there is none.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(byte, _)| *byte)
}

struct TableText {
    reader: csv::Reader<Box<dyn Read + Send>>,
    header: Vec<String>,
    record: StringRecord,
    /// The line of the text that is written next, from 1.
    line: u64,
    out: Vec<u8>,
    at: usize,
    /// Bytes read since the last record.
    taken: Arc<AtomicUsize>,
}

/// Ends a record that grows without end, such as one with a quote that is never closed.
struct RecordLimit {
    text: Box<dyn Read + Send>,
    taken: Arc<AtomicUsize>,
    limit: usize,
}

impl Read for RecordLimit {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.text.read(into)?;
        let limit = self.limit;
        if self.taken.fetch_add(count, Ordering::Relaxed) > limit {
            return Err(broken(format!(
                "has a record of more than {limit} bytes, or a quote without an end; split it or remove it, or set PYRUST_NN_MAX_RECORD_BYTES"
            )));
        }
        Ok(count)
    }
}

fn broken(text: String) -> io::Error {
    io::Error::other(TableError(text))
}

impl TableText {
    /// Reads the next record. Returns false at the end.
    fn next(&mut self) -> io::Result<bool> {
        self.taken.store(0, Ordering::Relaxed);
        match self.reader.read_record(&mut self.record) {
            Ok(more) => Ok(more),
            Err(cause) => Err(match cause.into_kind() {
                ErrorKind::Io(cause) => cause,
                ErrorKind::Utf8 { pos, .. } => {
                    broken(format!("is not UTF-8 in the record of line {}; save the file as UTF-8", pos.map_or(0, |pos| pos.line())))
                }
                other => broken(format!("cannot be read as a table: {other:?}")),
            }),
        }
    }

    fn read_header(&mut self) -> io::Result<bool> {
        if !self.next()? {
            return Ok(false);
        }
        self.header = self.record.iter().map(|name| name.trim().to_string()).collect();
        for (i, name) in self.header.iter().enumerate() {
            if self.header[..i].contains(name) && !name.is_empty() {
                return Err(broken(format!("has the column {name:?} twice in its header; rename or remove one of them")));
            }
        }
        Ok(true)
    }

    /// Writes the next record to `out`. Returns false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.out.clear();
        self.at = 0;
        if self.header.is_empty() && !self.read_header()? {
            return Ok(false);
        }
        if !self.next()? {
            return Ok(false);
        }
        let line = self.record.position().map_or(self.line, csv::Position::line);
        if self.record.len() != self.header.len() {
            return Err(broken(format!(
                "has {} in the record of line {line}, but {} in its header; put a field with a separator or a line break in quotes",
                counted(self.record.len() as u64, "field"),
                counted(self.header.len() as u64, "column")
            )));
        }
        while self.line < line {
            self.out.push(b'\n');
            self.line += 1;
        }
        self.out.push(b'{');
        let mut first = true;
        for (name, cell) in self.header.iter().zip(&self.record) {
            if cell.trim().is_empty() || name.is_empty() {
                continue;
            }
            if !std::mem::take(&mut first) {
                self.out.push(b',');
            }
            serde_json::to_writer(&mut self.out, name)?;
            self.out.push(b':');
            let flag = cell.trim().to_lowercase();
            if TRAIN_NAMES.contains(&name.as_str()) && ["0", "1", "true", "false"].contains(&flag.as_str()) {
                self.out.extend_from_slice(flag.as_bytes());
            } else {
                serde_json::to_writer(&mut self.out, cell)?;
            }
        }
        self.out.push(b'}');
        Ok(true)
    }
}

impl Read for TableText {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.out.len() && !self.fill()? {
            return Ok(0);
        }
        let count = (self.out.len() - self.at).min(into.len());
        into[..count].copy_from_slice(&self.out[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(table: &str) -> Result<String, String> {
        let (mut reader, _) = open(Box::new(Cursor::new(table.as_bytes().to_vec()))).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text).map_err(|cause| cause.to_string())
    }

    #[test]
    fn each_record_stands_on_its_own_line() {
        assert_eq!(text("q,a\n1,\"x\ny\"\n\"2\"\"\",z\n").unwrap(), "\n{\"q\":\"1\",\"a\":\"x\\ny\"}\n\n{\"q\":\"2\\\"\",\"a\":\"z\"}");
        assert_eq!(text("q\ta\tid\n1\t\t2").unwrap(), "\n{\"q\":\"1\",\"id\":\"2\"}");
        assert_eq!(text("q;a;weight\nx, y;b;0").unwrap(), "\n{\"q\":\"x, y\",\"a\":\"b\",\"weight\":0}");
        assert_eq!(text("[{\"a\": 1}]").unwrap(), "[{\"a\": 1}]");
    }

    #[test]
    fn faults_of_a_table_name_the_line() {
        assert!(text("q,a\n1,2\n1,2,3").unwrap_err().starts_with("has 3 fields in the record of line 3, but 2 columns"));
        assert!(text("q,q\n1,2").unwrap_err().contains("the column \"q\" twice"));
        let (mut reader, _) = open(Box::new(Cursor::new(b"q,a\n1,2\n\xe9,2".to_vec()))).unwrap();
        let cause = reader.read_to_string(&mut String::new()).unwrap_err().to_string();
        assert!(cause.starts_with("is not UTF-8 in the record of line 3"), "{cause}");
    }
}
