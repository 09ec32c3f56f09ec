//! Opens a file as a stream of JSON text. gzip and zstd are decompressed: the first bytes decide, not the file name. A table, by its name,
//! becomes JSON lines. Damaged data is an `io::Error`, which `reader.rs` reports.

use std::fs::File;
use std::io;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::data::read::table;

/// An open file.
pub(crate) struct Source {
    /// JSON text.
    pub text: Box<dyn Read + Send>,
    pub is_table: bool,
    pub is_compressed: bool,
}

/// Opens a file. The number of bytes read from disk is added to `done`.
pub(crate) fn open(path: &Path, done: &Arc<AtomicU64>) -> io::Result<Source> {
    let (text, is_compressed) = decompress(CountingReader { file: File::open(path)?, done: Arc::clone(done) })?;
    let (text, is_table) = if table::is_table(path) { table::open(text)? } else { (text, false) };
    Ok(Source { text, is_table, is_compressed })
}

/// The stream, decompressed if necessary, and whether it was. Several gzip members or zstd frames are concatenated.
fn decompress(mut raw: impl Read + Send + 'static) -> io::Result<(Box<dyn Read + Send>, bool)> {
    let mut magic = Vec::with_capacity(4);
    raw.by_ref().take(4).read_to_end(&mut magic)?;
    let compression = Compression::of(&magic);
    let whole = Cursor::new(magic).chain(raw);
    let is_compressed = compression.is_some();
    let text = without_byte_order_mark(match compression {
        Some(Compression::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, whole))),
        Some(Compression::Zstd) => Box::new(zstd::stream::read::Decoder::new(whole)?),
        None => Box::new(whole),
    })?;
    Ok((text, is_compressed))
}

/// The text without a byte order mark.
fn without_byte_order_mark(mut text: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut first = Vec::with_capacity(3);
    text.by_ref().take(3).read_to_end(&mut first)?;
    if first == "\u{feff}".as_bytes() {
        first.clear();
    }
    Ok(Box::new(Cursor::new(first).chain(text)))
}

enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    fn of(magic: &[u8]) -> Option<Compression> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            // A zstd frame or a skippable frame (pzstd starts with one).
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Compression::Zstd),
            _ => None,
        }
    }
}

struct CountingReader {
    file: File,
    done: Arc<AtomicU64>,
}

impl Read for CountingReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
