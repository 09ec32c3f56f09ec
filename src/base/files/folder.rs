//! Folders, and the names of files and folders.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use super::operation::{Operation, operation};

/// Makes a folder that does not exist, in one that does.
pub fn create_folder(path: &Path) -> io::Result<()> {
    operation(Operation::CreateFolder, path)?;
    fs::create_dir(path)
}

/// Makes a folder and those above it, as far as they do not exist.
pub fn create_folders(path: &Path) -> io::Result<()> {
    operation(Operation::CreateFolder, path)?;
    fs::create_dir_all(path)
}

/// Gives a file or folder another name. It lasts a power loss only once the folder is brought to disk.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    operation(Operation::Rename, from)?;
    fs::rename(from, to)
}

/// Removes a file or folder that may not be there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.is_dir() => operation(Operation::Remove, path).and_then(|()| fs::remove_dir_all(path)),
        _ => operation(Operation::Remove, path).and_then(|()| fs::remove_file(path)),
    };
    removed.with_context(|| format!("{} cannot be removed", path.display()))
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
    let published = (|| -> io::Result<()> {
        sync_tree(made)?;
        old.map_or(Ok(()), |old| rename(target, old))?;
        rename(made, target)?;
        sync_parent(target)
    })();
    published.with_context(|| format!("{} cannot take its place at {}", made.display(), target.display()))
}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            sync_one(&entry.path())?;
        }
    }
    sync_one(folder)
}

/// Brings the folder of a file to disk: a rename lasts only then.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => sync_one(Path::new(".")),
        Some(folder) => sync_one(folder),
        None => Ok(()),
    }
}

/// Brings a file, or the names in a folder, to disk.
pub(super) fn sync_one(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    operation(Operation::Sync, path)?;
    file.sync_all()
}
