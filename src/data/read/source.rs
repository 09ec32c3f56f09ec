//! A file as a stream of text, unpacked where it is gzip or zstd. The packing is known by the first bytes, not by the name.

use std::fs::File;
use std::io;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Opens a file; every byte that is read from the disk is added to `done`.
pub(crate) fn open(path: &Path, done: &Arc<AtomicU64>) -> io::Result<Box<dyn Read + Send>> {
    unpack(Counting { file: File::open(path)?, done: Arc::clone(done) })
}

/// The stream itself, or what is packed in it; several members or frames follow each other.
pub(crate) fn unpack(mut raw: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(4);
    raw.by_ref().take(4).read_to_end(&mut magic)?;
    let packed = Packed::of(&magic);
    let whole = Cursor::new(magic).chain(raw);
    without_mark(match packed {
        Some(Packed::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, whole))),
        Some(Packed::Zstd) => Box::new(zstd::stream::read::Decoder::new(whole)?),
        None => Box::new(whole),
    })
}

/// The text without a byte order mark.
fn without_mark(mut text: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut first = Vec::with_capacity(3);
    text.by_ref().take(3).read_to_end(&mut first)?;
    if first == "\u{feff}".as_bytes() {
        first.clear();
    }
    Ok(Box::new(Cursor::new(first).chain(text)))
}

enum Packed {
    Gzip,
    Zstd,
}

impl Packed {
    fn of(magic: &[u8]) -> Option<Packed> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Packed::Gzip),
            // A frame, or one of the frames that decoders skip (pzstd begins with one).
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Packed::Zstd),
            _ => None,
        }
    }
}

struct Counting {
    file: File,
    done: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
