//! Reads the files of a data set as a stream of batches. The reader splits the text under a lock, and worker threads parse the batches in
//! parallel. Memory holds one batch per thread, regardless of the file sizes.

use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use anyhow::Result;

use crate::base::error::did_you_mean;
use crate::base::{error, signals};
use crate::data::parse::columns::Layout;
use crate::data::parse::conversation::Conversation;
use crate::data::parse::dataset_format::{DatasetFormat, Detected};
use crate::data::parse::json_error::is_truncated;
use crate::data::parse::unknown_format::{no_object, unknown_object};
use crate::data::parse::{diagnostic, fast};
use crate::data::read::corruption::{bad_compression, corruption};
use crate::data::read::files::unreadable;
use crate::data::read::problem::{Problem, Problems, SHOWN};
use crate::data::read::size_limits::{SizeLimits, size_limits};
use crate::data::read::source;
use crate::data::read::splitter::{FramingError, Splitter};
use crate::data::read::table::TableError;

type ByteStream = Box<dyn Read + Send>;

/// Reads the files of a data set one after the other.
pub struct Reader {
    files: Vec<PathBuf>,
    sizes: SizeLimits,
    /// Index of the current or next file.
    file: usize,
    source: Option<ByteStream>,
    /// Whether the file is a table (CSV or TSV).
    table: bool,
    is_compressed: bool,
    buffer: Vec<u8>,
    /// Whether the source has ended.
    last: bool,
    splitter: Splitter,
    /// Line and column of the buffer's first byte, from 1.
    place: (usize, usize),
    layout: Arc<Layout>,
    /// Detected from the file's first items.
    format: Option<DatasetFormat>,
    /// Items in the batches so far, of this file and of all files.
    in_file: usize,
    in_all: usize,
    /// The part of each file, and how many conversations of each part may still be read. Empty without limits.
    part_of_file: Vec<usize>,
    rows_left: Vec<usize>,
    done: Arc<AtomicU64>,
    total: u64,
}

/// Some items of one file with their text.
#[derive(Clone, Debug)]
pub struct Batch {
    text: Vec<u8>,
    items: Vec<Range<usize>>,
    errors: Vec<FramingError>,
    format: DatasetFormat,
    layout: Arc<Layout>,
    /// Whether the items are records of a table, whose columns in the text mean nothing to the user.
    table: bool,
    /// Whether the text ends with the file.
    ended: bool,
    place: (usize, usize),
    file: usize,
    in_file: usize,
    /// Index of the first item in the data set.
    first: usize,
}

impl Reader {
    /// Reads the sizes of the files and opens none yet. `files` come from [`expand`](crate::data::read::files::expand).
    ///
    /// # Errors
    /// Kind `input` if a file does not exist, `usage` if the limit that the environment sets is not a size.
    pub fn open(files: Vec<PathBuf>, layout: &Layout) -> Result<Reader> {
        Reader::with_sizes(files, layout, size_limits()?)
    }

    pub(crate) fn with_sizes(files: Vec<PathBuf>, layout: &Layout, sizes: SizeLimits) -> Result<Reader> {
        let lengths = files.iter().map(|file| fs::metadata(file).map(|found| found.len()).map_err(|cause| unreadable(file, &cause)));
        let total = lengths.sum::<Result<u64>>()?;
        Ok(Reader {
            files,
            sizes,
            layout: Arc::new(layout.clone()),
            file: 0,
            source: None,
            table: false,
            is_compressed: false,
            buffer: Vec::new(),
            last: false,
            splitter: Splitter::new(sizes),
            place: (1, 1),
            format: None,
            in_file: 0,
            in_all: 0,
            part_of_file: Vec::new(),
            rows_left: Vec::new(),
            done: Arc::new(AtomicU64::new(0)),
            total,
        })
    }

    /// Reads at most so many conversations of each part. A part is a number of files, in order.
    pub(crate) fn limit(&mut self, parts: impl Iterator<Item = (usize, Option<usize>)>) {
        for (part, (files, rows)) in parts.enumerate() {
            self.part_of_file.extend(std::iter::repeat_n(part, files));
            self.rows_left.push(rows.unwrap_or(usize::MAX));
        }
    }

    /// The conversations that may still be read of the current file.
    fn rows_left(&mut self) -> Option<&mut usize> {
        self.part_of_file.get(self.file).and_then(|part| self.rows_left.get_mut(*part))
    }

    #[cfg(test)]
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Bytes read so far, as stored on disk, compressed or not.
    pub fn bytes_done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes of all files.
    pub fn bytes_total(&self) -> u64 {
        self.total
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next batch: 256 KiB of items, or a single larger one; `None` at the end. Errors between items are part of the batch.
    ///
    /// # Errors
    /// Kind `input` if a file cannot be read; `interrupted`. A file that cannot be decompressed is an error in its last batch.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        signals::check()?;
        loop {
            if self.source.is_none() {
                if self.rows_left() == Some(&mut 0) {
                    self.file += 1;
                    continue;
                }
                let Some(path) = self.files.get(self.file) else { return Ok(None) };
                match source::open(path, &self.done) {
                    Ok(source) => {
                        self.begin(Some(source.text));
                        (self.table, self.is_compressed) = (source.is_table, source.is_compressed);
                    }
                    Err(cause) => {
                        self.begin(None);
                        return self.end_broken_file(&cause).map(Some);
                    }
                }
            }
            if let Err(cause) = fill(&mut self.source, &mut self.buffer, self.sizes.block, &mut self.last) {
                return self.end_broken_file(&cause).map(Some);
            }
            if let Some(batch) = self.take_complete() {
                return Ok(Some(batch));
            }
        }
    }

    /// The items before the place where a compressed file is damaged or truncated, with the error; the next batch is of the next file.
    /// After any other error nothing more is read, so that no thread tries again.
    fn end_broken_file(&mut self, cause: &io::Error) -> Result<Batch> {
        if cause.raw_os_error().is_some() {
            let error = unreadable(&self.files[self.file], cause);
            (self.source, self.file, self.buffer) = (None, self.files.len(), Vec::new());
            return Err(error);
        }
        self.splitter.split(&self.buffer, false);
        if self.format.is_none() {
            self.detect_format();
        }
        let error = match cause.get_ref().and_then(|inner| inner.downcast_ref::<TableError>()) {
            Some(TableError(text)) => FramingError { at: None, text: text.clone(), is_corruption: false },
            None => bad_compression(cause),
        };
        self.splitter.errors.push(error);
        let settled = self.splitter.settled();
        let batch = self.batch(settled);
        (self.source, self.buffer) = (None, Vec::new());
        self.file += 1;
        batch.ok_or_else(|| error::input("a damaged file without an error")) // never: the batch has the error
    }

    /// Starts a new file.
    fn begin(&mut self, source: Option<ByteStream>) {
        self.source = source;
        self.buffer.clear();
        self.last = false;
        self.splitter = Splitter::new(self.sizes);
        self.place = (1, 1);
        self.format = None;
        self.in_file = 0;
    }

    /// The complete items in the buffer as a batch; `None` if more bytes are needed.
    fn take_complete(&mut self) -> Option<Batch> {
        self.splitter.split(&self.buffer, self.last);
        if self.format.is_none() {
            self.detect_format();
            if self.format.is_none() && self.splitter.lone_object() && !self.splitter.done() {
                // A single object of unknown format, or the first of many. The next bytes decide.
                return None;
            }
        }
        let ended = self.splitter.done();
        if ended && !self.last && self.is_compressed {
            // An error that ends the reading may come from wrong bytes, which the checksum at the end shows.
            self.splitter.errors.extend(self.source.take().and_then(corruption));
        }
        let settled = if ended { self.buffer.len() } else { self.splitter.settled() };
        if self.splitter.items.is_empty() && self.splitter.errors.is_empty() && !ended {
            // Only whitespace, or an incomplete item.
            self.discard(settled);
            return None;
        }
        let batch = self.batch(settled).map(|batch| Batch { ended, ..batch });
        if ended || self.rows_left() == Some(&mut 0) {
            self.source = None;
            self.file += 1;
            self.buffer = Vec::new();
        }
        batch
    }

    /// Detects the file's format from its first items.
    fn detect_format(&mut self) {
        const INSPECTED: usize = 16;
        let (mut wrong, mut misspelled) = (None, false);
        let items: Vec<Range<usize>> = self.splitter.items.iter().take(INSPECTED).cloned().collect();
        for item in items {
            match DatasetFormat::detect(&self.buffer[item.clone()], &self.layout) {
                Detected::Format(format) => {
                    if format != DatasetFormat::Messages {
                        info!("{} reads as {format}", self.files[self.file].display());
                    }
                    self.format = Some(format);
                    return;
                }
                Detected::Refused(what) => return self.refuse(item.start, format!("the file {what}")),
                Detected::Unknown(keys) => {
                    misspelled |= wrong.is_none() && did_you_mean("messages", keys.iter().map(String::as_str)).is_some();
                    wrong = wrong.or(Some((item, true)));
                }
                Detected::Other => wrong = wrong.or(Some((item, false))),
            }
        }
        let is_alone = self.splitter.lone_object();
        // A misspelled key is named for each item.
        let Some((item, is_object)) = wrong.filter(|_| !misspelled) else { return };
        // A single object may be the first of many.
        if is_alone && !self.splitter.done() {
            return;
        }
        let text = std::str::from_utf8(&self.buffer[item.clone()]).unwrap_or_default();
        let what = if is_object { Some(unknown_object(text, is_alone, &self.layout)) } else { no_object(text) };
        if let Some(what) = what {
            self.refuse(item.start, what);
        }
    }

    /// Reports an error of the whole file at an offset, and reads no more of it.
    fn refuse(&mut self, at: usize, text: String) {
        self.splitter.items.clear();
        self.splitter.errors.clear();
        self.splitter.stop(at, text);
    }

    /// Removes bytes that are no longer needed from the buffer.
    fn discard(&mut self, settled: usize) {
        if settled > 0 {
            self.place = moved(self.place, &self.buffer[..settled]);
            self.splitter.rebase(settled);
            self.buffer.drain(..settled);
        }
    }

    fn batch(&mut self, settled: usize) -> Option<Batch> {
        let mut rest = Vec::with_capacity(self.sizes.block + (self.buffer.len() - settled));
        rest.extend_from_slice(&self.buffer[settled..]);
        let mut text = std::mem::replace(&mut self.buffer, rest);
        text.truncate(settled);
        let mut items = std::mem::take(&mut self.splitter.items);
        let mut errors = std::mem::take(&mut self.splitter.errors);
        if let Some(left) = self.rows_left() {
            if items.len() >= *left {
                items.truncate(*left);
                let end = items.last().map_or(0, |item| item.end);
                errors.retain(|error| error.at.is_some_and(|at| at <= end));
            }
            *left -= items.len();
        }
        self.splitter.rebase(settled);
        let place = self.place;
        self.place = moved(place, &text);
        if items.is_empty() && errors.is_empty() {
            return None;
        }
        let (in_file, first) = (self.in_file, self.in_all);
        self.in_file += items.len();
        self.in_all += items.len();
        let format = self.format.unwrap_or(DatasetFormat::Messages);
        let (layout, table) = (Arc::clone(&self.layout), self.table);
        Some(Batch { text, items, errors, format, layout, table, ended: false, place, file: self.file, in_file, first })
    }
}

impl Batch {
    /// Index of the file.
    pub(crate) fn file(&self) -> usize {
        self.file
    }

    /// The problem of an item whose JSON has no end, with what is missing.
    fn truncated(&self, item: &Range<usize>, problem: &str) -> String {
        let what = if self.ended && item.end == self.text.len() { "file" } else { "line" };
        format!("{problem}; the {what} is truncated")
    }

    /// The conversations. Items with problems are added to `problems` and omitted.
    pub fn conversations(&self, problems: &mut Problems) -> Vec<Conversation> {
        let mut cursor = LineCursor { at: 0, place: self.place };
        for fault in &self.errors {
            let (line, column) = fault.at.map_or((0, 0), |at| cursor.move_to(at, &self.text));
            let problem = Problem { file: self.file, line, column, path: String::new(), text: fault.text.clone() };
            if fault.is_corruption { problems.add_corruption(problem) } else { problems.add(problem) }
        }
        let mut cursor = LineCursor { at: 0, place: self.place };
        let mut conversations = Vec::with_capacity(self.items.len());
        for (i, range) in self.items.iter().enumerate() {
            let item = &self.text[range.clone()];
            let plain = if self.format == DatasetFormat::Messages && self.layout.columns.is_empty() {
                std::str::from_utf8(item).ok().and_then(fast::parse_conversation)
            } else {
                None
            };
            let made = plain.or_else(|| {
                let mut found = Vec::new();
                let path = format!("[{}]", self.in_file + i);
                let mut tell = |offset, path, text| found.push((offset, path, text));
                let made = diagnostic::parse_conversation(item, &path, self.format, &self.layout, true, &mut tell);
                found.sort_by_key(|(offset, ..)| *offset);
                problems.add_unseen(self.file, found.len().saturating_sub(SHOWN));
                for (offset, path, text) in found.into_iter().take(SHOWN) {
                    let offset = if self.table { 0 } else { offset };
                    let (line, column) = cursor.move_to(range.start + offset, &self.text);
                    let column = if self.table { 0 } else { column };
                    let text = if is_truncated(&text) { self.truncated(range, &text) } else { text };
                    problems.add(Problem { file: self.file, line, column, path, text });
                }
                made
            });
            conversations.extend(made.map(|made| Conversation { index: self.first + i, ..made }));
        }
        conversations
    }
}

/// Line and column of increasing offsets. Each byte is counted once.
struct LineCursor {
    at: usize,
    place: (usize, usize),
}

impl LineCursor {
    fn move_to(&mut self, at: usize, text: &[u8]) -> (usize, usize) {
        self.place = moved(self.place, &text[self.at..at]);
        self.at = at;
        self.place
    }
}

/// Fills the buffer to `block` bytes, or by another `block` bytes if it has as many already, or until the source ends.
fn fill(source: &mut Option<ByteStream>, buffer: &mut Vec<u8>, block: usize, last: &mut bool) -> io::Result<()> {
    let Some(source) = source.as_mut().filter(|_| !*last) else { return Ok(()) };
    let mut len = buffer.len();
    let target = if len < block { block } else { len + block };
    buffer.resize(target, 0);
    while !*last && len < target {
        match source.read(&mut buffer[len..]) {
            Ok(0) => *last = true,
            Ok(read) => len += read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => {
                buffer.truncate(len);
                return Err(cause);
            }
        }
    }
    buffer.truncate(len);
    Ok(())
}

/// Line and column, from 1, after these bytes.
pub(crate) fn moved((line, column): (usize, usize), bytes: &[u8]) -> (usize, usize) {
    let characters = |bytes: &[u8]| bytes.iter().filter(|byte| byte.cast_signed() >= -0x40).count();
    match memchr::memrchr(b'\n', bytes) {
        None => (line, column + characters(bytes)),
        Some(end) => (line + memchr::memchr_iter(b'\n', &bytes[..=end]).count(), 1 + characters(&bytes[end + 1..])),
    }
}

#[cfg(test)]
impl Batch {
    /// Index of the first item within the data set, from 0.
    pub(crate) fn first_index(&self) -> usize {
        self.first
    }

    /// Number of items, valid or not.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn format(&self) -> DatasetFormat {
        self.format
    }

    /// The text of the items, in UTF-8 if they are valid.
    pub(crate) fn items(&self) -> impl Iterator<Item = &[u8]> {
        self.items.iter().map(|item| &self.text[item.clone()])
    }
}
