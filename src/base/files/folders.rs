//! Creates, renames, removes and publishes folders.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::operation::{Operation, operation};
use super::own::folder_mode;

/// Creates a folder. Its parent must exist.
pub fn create_folder(path: &Path) -> io::Result<()> {
    operation(Operation::CreateFolder, path)?;
    DirBuilder::new().mode(folder_mode()).create(path)
}

/// Creates a folder and its missing parents.
pub fn create_folders(path: &Path) -> Result<()> {
    let created =
        operation(Operation::CreateFolder, path).and_then(|()| DirBuilder::new().mode(folder_mode()).recursive(true).create(path));
    created.with_context(|| format!("{} cannot be created", path.display()))
}

/// Renames a file or folder. The new name survives a power loss only after the parent folder is synced.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    rename_only(from, to).with_context(|| format!("{} cannot be renamed to {}", from.display(), to.display()))
}

/// `rename`, for callers that name the files themselves.
pub(super) fn rename_only(from: &Path, to: &Path) -> io::Result<()> {
    operation(Operation::Rename, from)?;
    fs::rename(from, to)
}

/// Removes a file or folder if it exists.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.is_dir() => operation(Operation::Remove, path).and_then(|()| fs::remove_dir_all(path)),
        _ => operation(Operation::Remove, path).and_then(|()| fs::remove_file(path)),
    };
    removed.with_context(|| format!("{} cannot be removed", path.display()))
}

/// Syncs everything in the finished folder `made` to disk and renames it to `target`, which must not exist.
pub fn publish_folder(made: &Path, target: &Path) -> Result<()> {
    publish_or_replace(made, target, None)
}

/// Like `publish_folder`, but `target` exists and is renamed to `old` just before.
pub fn replace_folder(made: &Path, target: &Path, old: &Path) -> Result<()> {
    publish_or_replace(made, target, Some(old))
}

fn publish_or_replace(made: &Path, target: &Path, old: Option<&Path>) -> Result<()> {
    let published = (|| -> io::Result<()> {
        sync_tree(made)?;
        old.map_or(Ok(()), |old| rename_only(target, old))?;
        rename_only(made, target)?;
        sync_parent(target)
    })();
    published.with_context(|| format!("{} cannot be renamed to {}", made.display(), target.display()))
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

/// Syncs the parent folder of a file to disk, which makes a rename durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => sync_one(Path::new(".")),
        Some(folder) => sync_one(folder),
        None => Ok(()),
    }
}

/// Syncs a file, or the names in a folder, to disk.
pub(super) fn sync_one(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    operation(Operation::Sync, path)?;
    file.sync_all()
}
