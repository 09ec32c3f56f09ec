//! Every write of the Rust core goes through here: whole files and folders are made beside their place, brought to disk and
//! renamed; lines are appended in one write.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::base::signals;

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

/// SHA-256 of a file, as hexadecimal digits. Ctrl-C ends it.
pub fn sha256(path: &Path) -> Result<String> {
    match sha256_while(path, &|| !signals::pending())? {
        Some(hash) => Ok(hash),
        None => signals::check().map(|()| String::new()),
    }
}

/// SHA-256 of a file; nothing once `wanted` says no.
pub(crate) fn sha256_while(path: &Path, wanted: &dyn Fn() -> bool) -> Result<Option<String>> {
    let hashed = (|| -> std::io::Result<Option<String>> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            if !wanted() {
                return Ok(None);
            }
            match file.read(&mut buffer)? {
                0 => return Ok(Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())),
                n => hasher.update(&buffer[..n]),
            }
        }
    })();
    hashed.with_context(|| format!("{} cannot be read", path.display()))
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

    #[test]
    fn sha256_is_the_standard_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-4's example.
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
