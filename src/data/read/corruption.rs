//! Compressed files whose data cannot be unpacked, or is not what was packed.

use std::io::{self, Read};

use crate::data::read::splitter::FramingError;

/// The error of a compressed file that cannot be read further. If it ends too early, what was read is right.
pub(super) fn bad_compression(cause: &io::Error) -> FramingError {
    let text = format!("has damaged or truncated compressed data ({cause}); download or compress the file again");
    FramingError { at: None, text, is_corruption: cause.kind() != io::ErrorKind::UnexpectedEof }
}

/// Reads a compressed file to its end, within reason, and returns the error if its data is damaged.
pub(super) fn corruption(source: impl Read) -> Option<FramingError> {
    const MOST: u64 = 1 << 30;
    let cause = io::copy(&mut source.take(MOST), &mut io::sink()).err()?;
    Some(bad_compression(&cause)).filter(|error| error.is_corruption && cause.raw_os_error().is_none())
}
