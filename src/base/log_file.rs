//! The file of a session's log. A log has a limit of 1 GiB (`PYRUST_NN_LOG_MAX_BYTES`): when the file has half of it, it is renamed to
//! `pipeline.log.1`, which replaces an earlier one, and a new file begins. So the newest records are always kept, and the log says where
//! the earlier ones are.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::clock::now;
use crate::base::files;
use crate::base::numbers::bytes;
use crate::base::size_variable::size_variable;

const MAX_VARIABLE: &str = "PYRUST_NN_LOG_MAX_BYTES";

const MAX: u64 = 1 << 30;

/// The largest size of a session's log in bytes: `PYRUST_NN_LOG_MAX_BYTES`, otherwise 1 GiB.
///
/// # Errors
/// Kind `usage` if the variable is not a size.
pub(crate) fn max_bytes() -> Result<u64> {
    size_variable(MAX_VARIABLE, MAX)
}

/// Where the records are that were written before those of the log `path`.
pub(crate) fn earlier(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A log that is open for appending.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: files::Writer,
    bytes: u64,
    /// The file is renamed before it exceeds this. Only one process writes with a limit: the one that holds the session.
    limit: u64,
    /// Whether the last byte is a line break.
    at_line_start: bool,
}

impl LogFile {
    /// Opens the log `path`, or creates it.
    ///
    /// # Errors
    /// Kind `io`; `usage` if the limit is not a size.
    pub(crate) fn open(path: &Path) -> Result<LogFile> {
        LogFile::with_limit(path, max_bytes()? / 2)
    }

    /// Opens it without a limit: for a record from a process that does not hold the session.
    pub(crate) fn with_limit(path: &Path, limit: u64) -> Result<LogFile> {
        let file = files::Writer::append(path).with_context(|| format!("log {} cannot be opened", path.display()))?;
        let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
        Ok(LogFile { path: path.to_path_buf(), file, bytes, limit, at_line_start: true })
    }

    fn begin_anew(&mut self) -> Result<()> {
        let earlier = earlier(&self.path);
        files::rename(&self.path, &earlier)?;
        self.file = files::Writer::append(&self.path)?;
        let name = earlier.file_name().unwrap_or_default().to_string_lossy();
        let limit = bytes(self.limit.saturating_mul(2));
        let line = format!(
            "{} [INFO ] {}: the records before this one are in {name}; a log has at most {limit} ({MAX_VARIABLE})\n",
            now(),
            module_path!()
        );
        self.file.write_all(line.as_bytes())?;
        self.bytes = line.len() as u64;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        // Further lines of a record are indented.
        let begins_record = self.at_line_start && block.first().is_some_and(|byte| *byte != b' ');
        if begins_record && self.bytes > 0 && self.bytes + block.len() as u64 > self.limit {
            // If this fails, the record goes into the old file: no record is lost for a limit.
            drop(self.begin_anew());
        }
        let written = self.file.write(block)?;
        self.bytes += written as u64;
        self.at_line_start = block[..written].ends_with(b"\n");
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn at_its_limit_a_log_begins_anew_between_two_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipeline.log");
        let mut log = LogFile::with_limit(&path, 300).unwrap();
        for number in 0..100 {
            log.write_all(format!("2026-01-01 record {number}\n").as_bytes()).unwrap();
            log.write_all(b"    its second line\n").unwrap();
        }
        let [new, old] = [&path, &earlier(&path)].map(|path| fs::read_to_string(path).unwrap());
        assert!(
            new.contains("record 99") && new.lines().next().unwrap().contains("are in pipeline.log.1; a log has at most 600 B"),
            "{new}"
        );
        assert!(new.len() <= 330 && old.len() <= 330, "{} {}", new.len(), old.len());
        let first = new.lines().nth(1).unwrap();
        let number: usize = first.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(first.starts_with("2026") && old.ends_with(&format!("record {}\n    its second line\n", number - 1)), "{old}{new}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

        // What is open again goes on where it was.
        drop(log);
        let mut log = LogFile::with_limit(&path, 300).unwrap();
        log.write_all(&[b'x'; 400]).unwrap();
        assert!(fs::read_to_string(earlier(&path)).unwrap() == new);
    }
}
