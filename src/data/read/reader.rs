//! Reads the files of a data set as a stream of batches. The reader splits the text under a lock, and worker threads parse the batches in
//! parallel. Memory holds one batch per thread, regardless of the file sizes.

use std::io::Read;
use std::ops::Range;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use anyhow::Result;
use serde::de::IgnoredAny;
#[cfg(test)]
use serde_json::Value;

use crate::base::{error, signals};
use crate::data::parse::conversation::Conversation;
use crate::data::parse::dataset_format::DatasetFormat;
use crate::data::parse::{diagnostic, fast};
#[cfg(test)]
use crate::data::read::files::expand;
use crate::data::read::files::unreadable;
use crate::data::read::problem::{Problem, Problems, SHOWN};
use crate::data::read::source;
use crate::data::read::splitter::{FramingError, SIZE_LIMITS, SizeLimits, Splitter};

type ByteStream = Box<dyn Read + Send>;

/// Reads the files of a data set one after the other.
pub struct Reader {
    files: Vec<PathBuf>,
    sizes: SizeLimits,
    /// Index of the current or next file.
    file: usize,
    source: Option<ByteStream>,
    buffer: Vec<u8>,
    /// Whether the source has ended.
    last: bool,
    splitter: Splitter,
    /// Line and column of the buffer's first byte, from 1.
    place: (usize, usize),
    /// Detected from the file's first items.
    format: Option<DatasetFormat>,
    /// Items in the batches so far, of this file and of all files.
    in_file: usize,
    in_all: usize,
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
    /// Kind `input` if a file does not exist.
    pub fn open(files: Vec<PathBuf>) -> Result<Reader> {
        Reader::with_sizes(files, SIZE_LIMITS)
    }

    pub(crate) fn with_sizes(files: Vec<PathBuf>, sizes: SizeLimits) -> Result<Reader> {
        let lengths = files.iter().map(|file| fs::metadata(file).map(|found| found.len()).map_err(|cause| unreadable(file, &cause)));
        let total = lengths.sum::<Result<u64>>()?;
        Ok(Reader {
            files,
            sizes,
            file: 0,
            source: None,
            buffer: Vec::new(),
            last: false,
            splitter: Splitter::new(sizes),
            place: (1, 1),
            format: None,
            in_file: 0,
            in_all: 0,
            done: Arc::new(AtomicU64::new(0)),
            total,
        })
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
                let Some(path) = self.files.get(self.file) else { return Ok(None) };
                match source::open(path, &self.done) {
                    Ok(source) => self.begin(Some(source)),
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
        let text = format!("the compressed data is damaged or truncated ({cause}); download or compress the file again");
        self.splitter.errors.push(FramingError { at: None, text });
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
        let ended = self.splitter.done();
        if self.format.is_none() {
            self.detect_format();
            if self.format.is_none() && self.splitter.lone_object() {
                if !ended {
                    // A single object of unknown format, or the first of many. The next bytes decide.
                    return None;
                }
                self.reject_single_object();
            }
        }
        let settled = if ended { self.buffer.len() } else { self.splitter.settled() };
        if self.splitter.items.is_empty() && self.splitter.errors.is_empty() && !ended {
            // Only whitespace, or an incomplete item.
            self.discard(settled);
            return None;
        }
        let batch = self.batch(settled);
        if ended {
            self.source = None;
            self.file += 1;
            self.buffer = Vec::new();
        }
        batch
    }

    /// Detects the file's format from its first items.
    fn detect_format(&mut self) {
        const INSPECTED: usize = 16;
        let items = self.splitter.items.iter().take(INSPECTED);
        self.format = items.map(|item| &self.buffer[item.clone()]).find_map(DatasetFormat::detect);
        if let Some(format) = self.format.filter(|format| *format != DatasetFormat::Messages) {
            info!("{} reads as {format}", self.files[self.file].display());
        }
    }

    /// Reports a file that is a single object and not a conversation in any format.
    fn reject_single_object(&mut self) {
        let Some(item) = self.splitter.items.first().cloned() else { return };
        if serde_json::from_slice::<IgnoredAny>(&self.buffer[item.clone()]).is_ok() {
            self.splitter.items.clear();
            let text = "the file is one object, not a list; write [{\"messages\": [...]}, ...]".into();
            self.splitter.errors.push(FramingError { at: Some(item.start), text });
        }
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
        let items = std::mem::take(&mut self.splitter.items);
        let errors = std::mem::take(&mut self.splitter.errors);
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
        Some(Batch { text, items, errors, format, place, file: self.file, in_file, first })
    }
}

impl Batch {
    /// The conversations. Items with problems are added to `problems` and omitted.
    pub fn conversations(&self, problems: &mut Problems) -> Vec<Conversation> {
        let mut cursor = LineCursor { at: 0, place: self.place };
        for fault in &self.errors {
            let (line, column) = fault.at.map_or((0, 0), |at| cursor.move_to(at, &self.text));
            problems.add(Problem { file: self.file, line, column, path: String::new(), text: fault.text.clone() });
        }
        let mut cursor = LineCursor { at: 0, place: self.place };
        let mut conversations = Vec::with_capacity(self.items.len());
        for (i, range) in self.items.iter().enumerate() {
            let item = &self.text[range.clone()];
            let plain = if self.format == DatasetFormat::Messages {
                std::str::from_utf8(item).ok().and_then(fast::parse_conversation)
            } else {
                None
            };
            let made = plain.or_else(|| {
                let mut found = Vec::new();
                let path = format!("[{}]", self.in_file + i);
                let made =
                    diagnostic::parse_conversation(item, &path, self.format, &mut |offset, path, text| found.push((offset, path, text)));
                found.sort_by_key(|(offset, ..)| *offset);
                problems.add_unseen(found.len().saturating_sub(SHOWN));
                for (offset, path, text) in found.into_iter().take(SHOWN) {
                    let (line, column) = cursor.move_to(range.start + offset, &self.text);
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

/// Number of files, conversations and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCounts {
    pub files: usize,
    pub conversations: usize,
    pub messages: usize,
}

/// Reads and validates all files on all cores, and keeps no conversations.
///
/// # Errors
/// Kind `input`: a file that cannot be read, or the list of all problems; `interrupted`.
pub fn check_files(files: &[PathBuf]) -> Result<FileCounts> {
    let reader = Mutex::new(Some(Reader::open(files.to_vec())?));
    let work = || -> Result<(FileCounts, Problems)> {
        let (mut count, mut problems) = (FileCounts::default(), Problems::default());
        loop {
            let batch = {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                let next = reader.as_mut().map_or(Ok(None), Reader::next_batch);
                if next.is_err() {
                    // Stops the other threads too.
                    *reader = None;
                }
                next?
            };
            let Some(batch) = batch else { return Ok((count, problems)) };
            for conversation in batch.conversations(&mut problems) {
                count.conversations += 1;
                count.messages += conversation.messages.len();
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut sum = FileCounts { files: files.len(), ..FileCounts::default() };
    let mut problems = Problems::default();
    let mut failed = None;
    for part in parts {
        match part {
            Ok((count, found)) => {
                sum.conversations += count.conversations;
                sum.messages += count.messages;
                problems.append(found);
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => problems.into_result(files).map(|()| sum),
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

    /// The text of the items, in UTF-8 if they are valid.
    pub(crate) fn items(&self) -> impl Iterator<Item = &[u8]> {
        self.items.iter().map(|item| &self.text[item.clone()])
    }
}

/// The conversations of a file or a pattern, each an object with `messages` and all other fields of the item.
///
/// # Errors
/// Kind `input`: no such file, not UTF-8, not JSON, not a list, or conversations without anything to train on.
#[cfg(test)]
pub(crate) fn read_conversations(path: &Path) -> Result<Vec<Value>> {
    let files = expand(&[path.to_string_lossy()])?;
    let mut reader = Reader::open(files)?;
    let (mut values, mut problems) = (Vec::new(), Problems::default());
    while let Some(batch) = reader.next_batch()? {
        for conversation in batch.conversations(&mut problems) {
            if !problems.is_empty() {
                break;
            }
            let mut value = conversation.to_value();
            if batch.format == DatasetFormat::Messages
                && let Some(item) = batch.items.get(conversation.index - batch.first)
                && let Ok(Value::Object(mut whole)) = serde_json::from_slice(&batch.text[item.clone()])
            {
                whole.insert("messages".into(), value["messages"].take());
                value = Value::Object(whole);
            }
            values.push(value);
        }
    }
    problems.into_result(reader.files()).map(|()| values)
}
