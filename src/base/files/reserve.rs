//! Space that is kept for the end of a step: on a full disk, its summary and the last lines of its log still fit.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::base::files::{Writer, remove};

const BYTES: usize = 1 << 16;

/// A file of 64 KiB, removed on drop.
#[derive(Debug)]
pub(crate) struct Reserve(PathBuf);

impl Reserve {
    /// Keeps space in a folder, if there is some.
    pub(crate) fn hold(folder: &Path) -> Reserve {
        let path = folder.join(".reserve");
        // Bytes that differ, because some file systems store nothing for zeros or compress them.
        let bytes: Vec<u8> = (0..BYTES as u32).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
        drop(Writer::create(&path).and_then(|mut file| file.write_all(&bytes)));
        Reserve(path)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        drop(remove(&self.0));
    }
}
