//! Writes files: atomically, in pieces, or line by line.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::folders::{remove, rename_only, sync_one, sync_parent};
use super::operation::{Operation, operation};
use super::own::opened;

/// A file open for writing. It is unbuffered, and synced to disk only by `sync`.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    /// Creates a file, or truncates an existing one.
    pub fn create(path: &Path) -> io::Result<Writer> {
        Writer::open(path, OpenOptions::new().create(true).truncate(true).write(true))
    }

    /// Opens a file for appending, or creates it.
    pub fn append(path: &Path) -> io::Result<Writer> {
        Writer::open(path, OpenOptions::new().create(true).append(true))
    }

    fn open(path: &Path, options: &mut OpenOptions) -> io::Result<Writer> {
        operation(Operation::Open, path)?;
        Ok(Writer { path: path.to_path_buf(), file: opened(options, path)? })
    }

    /// Syncs it to disk.
    pub fn sync(&self) -> io::Result<()> {
        operation(Operation::Sync, &self.path)?;
        self.file.sync_all()
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        operation(Operation::Write, &self.path)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A new file under a temporary name in the target's folder. It is removed on drop if it was not published.
#[derive(Debug)]
pub struct Replacement<'a> {
    target: &'a Path,
    writer: Writer,
    published: bool,
}

impl Replacement<'_> {
    pub fn create(target: &Path) -> io::Result<Replacement<'_>> {
        let writer = Writer::create(&beside(target, &format!("partial-{}", std::process::id())))?;
        Ok(Replacement { target, writer, published: false })
    }

    /// Syncs the file to disk and renames it to the target, which it replaces.
    pub fn publish(mut self) -> io::Result<()> {
        self.writer.sync()?;
        rename_only(&self.writer.path, self.target)?;
        self.published = true;
        sync_parent(self.target)
    }
}

impl Write for Replacement<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.published {
            // If this fails too, the first error says more.
            drop(remove(&self.writer.path));
        }
    }
}

/// Writes a file atomically: readers see the old content or the new one.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = (|| -> io::Result<()> {
        let mut file = Replacement::create(path)?;
        file.write_all(bytes)?;
        file.publish()
    })();
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Writes a value as indented JSON with a final newline.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write_whole(path, &bytes)
}

/// Appends one line in one write.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(b'\n');
    let appended = Writer::append(path).and_then(|mut file| file.write_all(&bytes));
    appended.with_context(|| format!("{} cannot be appended to", path.display()))
}

/// Syncs a file to disk if it exists.
pub fn sync(path: &Path) -> Result<()> {
    match sync_one(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be synced to disk", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what a killed process left of [`Replacement`]s in a folder. Only for a folder that no other process writes to.
pub fn sweep_partial(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?.flatten() {
        if is_partial(&entry.file_name()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether it is the temporary name of a [`Replacement`], or of `files.py`'s.
pub fn is_partial(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with('.') && (name.ends_with(".partial") || name.contains(".partial-")))
}

/// Sets the modification time of an open file or folder to now. It is not counted as a change: nothing is lost if it fails.
pub fn set_modified_now(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::now())
}

/// `name` as `.name.word` in the same folder.
pub fn beside(path: &Path, word: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{word}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::operation::with_fault;
    use super::super::{create_folder, replace_folder};
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(write_whole(&folder.path().join("no/such.json"), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_at_any_operation_of_write_whole_leaves_a_whole_file_and_nothing_beside() {
        use Operation::{Open, Rename, Sync, Write};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        let (done, passed) = with_fault(folder.path(), None, || write_whole(&path, b"old"));
        done.unwrap();
        let kinds: Vec<Operation> = passed.iter().map(|(kind, _)| *kind).collect();
        // The file is synced before the rename, and its folder after it.
        assert_eq!(kinds, [Open, Write, Sync, Rename, Sync]);
        for number in 1..=kinds.len() {
            write_whole(&path, b"old").unwrap();
            let (failed, passed) = with_fault(folder.path(), Some((number, libc::ENOSPC)), || write_whole(&path, b"new"));
            let cause = failed.unwrap_err().downcast::<io::Error>().unwrap();
            assert_eq!(cause.kind(), io::ErrorKind::StorageFull, "operation {number}");
            assert_eq!(passed[..number].iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), kinds[..number]);
            // Only the sync of the folder follows the rename. Then the file is new, and the error says that it may not be durable.
            let left: &[u8] = if number == kinds.len() { b"new" } else { b"old" };
            assert_eq!(fs::read(&path).unwrap(), left, "operation {number}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "operation {number} leaves something beside");
        }
    }

    #[test]
    fn a_fault_at_any_operation_of_replace_folder_loses_neither_the_old_nor_the_new() {
        let folder = tempfile::tempdir().unwrap();
        let [made, target, old] = ["made", "step", "old"].map(|name| folder.path().join(name));
        let make = || {
            for (place, text) in [(&made, "new"), (&target, "old")] {
                remove(place).unwrap();
                create_folder(place).unwrap();
                fs::write(place.join("file"), text).unwrap();
            }
            remove(&old).unwrap();
        };
        make();
        let (done, passed) = with_fault(folder.path(), None, || replace_folder(&made, &target, &old));
        done.unwrap();
        assert!(passed.len() >= 5, "two syncs, two renames, a sync: {passed:?}");
        for number in 1..=passed.len() {
            make();
            let (failed, _) = with_fault(folder.path(), Some((number, libc::EIO)), || replace_folder(&made, &target, &old));
            failed.unwrap_err();
            let is = |place: &Path, text: &str| fs::read_to_string(place.join("file")).is_ok_and(|found| found == text);
            assert!(is(&made, "new") || is(&target, "new"), "operation {number} loses the new one");
            assert!(is(&old, "old") || is(&target, "old"), "operation {number} loses the old one");
        }
    }
}
