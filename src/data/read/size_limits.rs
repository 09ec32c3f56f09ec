//! How much of a file is read at once, and how large an item may be.

use anyhow::Result;

use crate::base::size_variable::size_variable;

/// Size limits in bytes. Tests use small ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SizeLimits {
    /// Bytes read at once, which is about the size of a batch.
    pub block: usize,
    /// An item that has reached this size without an end is checked by a parser, and again at each doubling, so that a broken item does
    /// not consume the whole file.
    pub suspicious: usize,
    /// Maximum size of an item. Reading one takes several times as much memory.
    pub item: usize,
}

pub(crate) const SIZE_LIMITS: SizeLimits = SizeLimits { block: 256 << 10, suspicious: 4 << 20, item: 64 << 20 };

/// The environment variable that changes the maximum size of an item.
pub(crate) const MAX_RECORD: &str = "PYRUST_NN_MAX_RECORD_BYTES";

/// The limits, with the maximum size of an item that the environment sets.
///
/// # Errors
/// Kind `usage` if the variable is not a size.
pub(crate) fn size_limits() -> Result<SizeLimits> {
    let item = size_variable(MAX_RECORD, SIZE_LIMITS.item as u64)?;
    Ok(SizeLimits { item: usize::try_from(item).unwrap_or(usize::MAX), ..SIZE_LIMITS })
}
