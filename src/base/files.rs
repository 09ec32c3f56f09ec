//! Every write of the Rust core goes through here: whole files and folders are made beside their place, brought to disk and
//! renamed; lines are appended in one write.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes a whole file: nobody ever sees half of it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = beside(path, &format!("partial-{}", std::process::id()));
    let written = (|| -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder(path.parent())
    })();
    written.inspect_err(|_| drop(fs::remove_file(&beside))).with_context(|| format!("{} cannot be written", path.display()))
}

/// Writes a value as indented JSON with a last newline.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write_whole(path, &bytes)
}

/// Appends one line in one write.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(b'\n');
    let appended = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| file.write_all(&bytes));
    appended.with_context(|| format!("{} cannot be appended to", path.display()))
}

/// Brings a file that grows by lines to disk; nothing where there is none.
pub fn sync(path: &Path) -> Result<()> {
    match File::open(path).and_then(|file| file.sync_all()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be brought to disk", path.display()))
        }
        _ => Ok(()),
    }
}

/// Brings everything in a finished folder to disk and gives it its name. `target` must not exist.
pub fn publish_folder(made: &Path, target: &Path) -> Result<()> {
    publish_in_place_of(made, target, None)
}

/// As `publish_folder`, but `target` exists and becomes `old`, at the last moment.
pub fn replace_folder(made: &Path, target: &Path, old: &Path) -> Result<()> {
    publish_in_place_of(made, target, Some(old))
}

fn publish_in_place_of(made: &Path, target: &Path, old: Option<&Path>) -> Result<()> {
    let published = (|| -> std::io::Result<()> {
        sync_tree(made)?;
        old.map_or(Ok(()), |old| fs::rename(target, old))?;
        fs::rename(made, target)?;
        sync_folder(target.parent())
    })();
    published.with_context(|| format!("{} cannot take its place at {}", made.display(), target.display()))
}

/// Removes a file or folder that may not be there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    removed.with_context(|| format!("{} cannot be removed", path.display()))
}

/// `name` as `.name.word` in the same folder.
pub fn beside(path: &Path, word: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{word}"))
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(Some(folder))
}

/// A rename lasts only once its folder is on disk.
fn sync_folder(folder: Option<&Path>) -> std::io::Result<()> {
    match folder {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
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
}
