//! A lock file. The lock is the operating system's, so it ends with its process; the content names the owner.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use super::operation::{Operation, operation};
use super::own::opened;

/// An open lock file. The lock ends on drop, unless a forked process has the file open too.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    /// Opens the file, or creates it. It is not locked yet.
    pub fn open(path: &Path) -> io::Result<LockFile> {
        operation(Operation::Open, path)?;
        let file = opened(OpenOptions::new().create(true).truncate(false).read(true).write(true), path)?;
        Ok(LockFile { path: path.to_path_buf(), file })
    }

    pub fn try_lock(&self) -> Result<(), TryLockError> {
        self.file.try_lock()
    }

    /// Waits for the lock.
    pub fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }

    pub fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() == 0)
    }

    /// Replaces the content in place. A rename would lose the lock.
    pub fn set(&mut self, text: &str) -> io::Result<()> {
        operation(Operation::Truncate, &self.path)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        operation(Operation::Write, &self.path)?;
        self.file.write_all(text.as_bytes())
    }
}
