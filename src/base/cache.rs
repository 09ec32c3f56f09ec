//! The user's cache: its folder, the entries in it, their use and their removal. Everything in it can be made again.
//!
//! An entry is a file or folder: prepared rows (`data/<key>`), data sets converted to JSON lines (`json/`), unpacked
//! (`unzipped/`), read from standard input (`stdin/`) or downloaded (`hub/`), parsed tokenizers (`tokenizers/`), lists of a package's names (`imports/`), models converted for `serve` (`gguf/`)
//! and the built-in model (`tiny-<key>`). Names with a leading dot are entries that are being made.
//!
//! A process that uses an entry holds a shared lock on it (`flock`) until it ends, and sets its modification time to now. An entry is
//! removed only under an exclusive lock. So an entry in use is never removed, and the modification times give the order of the last uses.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::base::size_variable::size_variable;
use crate::base::{clock, files};

/// The size of the cache from which the entries used longest ago are removed: 20 GiB.
const MAX: u64 = 20 << 30;

/// The variable that sets another size.
const MAX_VARIABLE: &str = "PYRUST_NN_CACHE_MAX";

/// The folders of entries, and what is in them.
const FOLDERS: [(&str, &str); 8] = [
    ("data", "rows"),
    ("json", "json"),
    ("unzipped", "unzipped"),
    ("stdin", "stdin"),
    ("hub", "hub"),
    ("tokenizers", "tokenizer"),
    ("imports", "imports"),
    ("gguf", "gguf"),
];

/// The user's cache folder as an absolute path: `PYRUST_NN_CACHE` (with `~` for the home folder), otherwise `pyrust-nn` in
/// `XDG_CACHE_HOME` or `~/.cache`. It may not exist yet.
pub fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").unwrap_or_else(std::env::temp_dir);
    let folder = match set("PYRUST_NN_CACHE") {
        Some(own) => own.strip_prefix("~").map(|rest| home().join(rest)).unwrap_or(own),
        None => set("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache")).join("pyrust-nn"),
    };
    std::path::absolute(&folder).unwrap_or(folder)
}

/// The largest size of the cache in bytes: `PYRUST_NN_CACHE_MAX`, otherwise 20 GiB.
///
/// # Errors
/// Kind `usage` if the variable is not a size.
pub fn max_bytes() -> Result<u64> {
    size_variable(MAX_VARIABLE, MAX)
}

/// An entry of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheItem {
    /// Relative to the cache's folder.
    pub name: String,
    /// `rows`, `json`, `unzipped`, `stdin`, `hub`, `tokenizer`, `imports`, `gguf` or `model`.
    pub kind: String,
    pub bytes: u64,
    /// When it was last used: RFC 3339, UTC.
    pub used_at: String,
    /// Whether a running process uses it.
    pub in_use: bool,
}

/// The content of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheContent {
    pub folder: PathBuf,
    pub bytes: u64,
    pub max_bytes: u64,
    /// The one used longest ago is first.
    pub entries: Vec<CacheItem>,
}

/// The content of the user's cache.
///
/// # Errors
/// Kind `usage` if `PYRUST_NN_CACHE_MAX` is not a size.
pub fn list_cache() -> Result<CacheContent> {
    content(&folder(), max_bytes()?)
}

/// Removes everything from the user's cache that is not in use. Returns what remains.
///
/// # Errors
/// Kind `usage` if `PYRUST_NN_CACHE_MAX` is not a size, `io` if an entry cannot be removed.
pub fn clear_cache() -> Result<CacheContent> {
    let max = max_bytes()?;
    shrink(&folder(), 0)?;
    content(&folder(), max)
}

fn content(cache: &Path, max_bytes: u64) -> Result<CacheContent> {
    let entries: Vec<CacheItem> = entries(cache).into_iter().map(|(item, _)| item).collect();
    Ok(CacheContent { folder: cache.to_path_buf(), bytes: entries.iter().map(|entry| entry.bytes).sum(), max_bytes, entries })
}

/// The entries with their paths. The one used longest ago is first.
fn entries(cache: &Path) -> Vec<(CacheItem, PathBuf)> {
    let within = FOLDERS.iter().map(|(folder, kind)| (cache.join(folder), *kind, ""));
    let mut found = Vec::new();
    for (folder, kind, prefix) in within.chain([(cache.to_path_buf(), "model", "tiny-")]) {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let Some(used) = entry.metadata().and_then(|metadata| metadata.modified()).ok() else { continue };
            if name.starts_with('.') || !name.starts_with(prefix) {
                continue;
            }
            let name = path.strip_prefix(cache).unwrap_or(&path).to_string_lossy().into_owned();
            let in_use = File::open(&path).is_ok_and(|file| file.try_lock().is_err());
            found.push((used, CacheItem { name, kind: kind.into(), bytes: bytes(&path), used_at: clock::time(used), in_use }, path));
        }
    }
    found.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
    found.into_iter().map(|(_, item, path)| (item, path)).collect()
}

/// The size of a file or of all files in a folder.
fn bytes(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes(&entry.path())).sum()
        }
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

/// Removes the entries used longest ago until the cache has at most `max_bytes`. Entries in use stay.
///
/// # Errors
/// Kind `io` if an entry cannot be removed.
pub fn shrink(cache: &Path, max_bytes: u64) -> Result<()> {
    let entries = entries(cache);
    let mut total: u64 = entries.iter().map(|(item, _)| item.bytes).sum();
    for (item, path) in entries {
        if total <= max_bytes {
            break;
        }
        if remove(&path).with_context(|| format!("the cache entry {} cannot be removed", path.display()))? {
            debug!("removed {} from the cache: {} bytes, last used {}", path.display(), item.bytes, item.used_at);
            total -= item.bytes;
        }
    }
    Ok(())
}

/// Removes an entry unless a process uses it. On a file system without locks every entry counts as used.
fn remove(path: &Path) -> Result<bool> {
    let Ok(entry) = File::open(path) else { return Ok(false) };
    if entry.try_lock().is_err() || !is_at(&entry, path) {
        return Ok(false);
    }
    if path.is_file() {
        files::remove(path)?;
        return Ok(true);
    }
    // Renamed first, so that no process finds a part of it. In `data/` the next preparation removes what a killed process leaves.
    let aside = files::beside(path, &format!("partial-{}-removed", std::process::id()));
    files::rename(path, &aside)?;
    files::remove(&aside)?;
    Ok(true)
}

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(now)) => (open.dev(), open.ino()) == (now.dev(), now.ino()),
        _ => false,
    }
}

/// Marks an entry as used by this process until it ends. Returns false if there is no such entry.
///
/// A process holds one open file for each entry that it has used.
pub fn hold(path: &Path) -> bool {
    static HELD: LazyLock<Mutex<HashMap<PathBuf, File>>> = LazyLock::new(Mutex::default);
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if !held.get(path).is_some_and(|entry| is_at(entry, path)) {
        loop {
            let Ok(entry) = File::open(path) else { return path.exists() };
            // Waits while another process removes it or completes it. Without locks (some file systems) nothing is removed.
            drop(entry.lock_shared());
            if is_at(&entry, path) {
                held.insert(path.to_path_buf(), entry);
                break;
            }
        }
    }
    // In a cache that cannot be written, nothing is removed either.
    if let Some(entry) = held.get(path) {
        drop(files::set_modified_now(entry));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(cache: &Path, name: &str, bytes: usize, age: u64) -> PathBuf {
        let path = cache.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("rows"), vec![0; bytes]).unwrap();
        let used = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
        File::open(&path).unwrap().set_modified(used).unwrap();
        path
    }

    #[test]
    fn the_entries_used_longest_ago_are_removed_first_and_one_in_use_never() {
        let cache = tempfile::tempdir().unwrap();
        let [oldest, old, new, model] =
            [("data/a", 50), ("data/b", 40), ("data/c", 10), ("tiny-x", 30)].map(|(name, age)| entry(cache.path(), name, 100, age));
        let other = entry(cache.path(), "unrelated", 100, 99);
        let names = || content(cache.path(), 0).unwrap().entries.into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(), ["data/a", "data/b", "tiny-x", "data/c"]);
        // Another open file stands for another process: flock compares open files.
        let user = File::open(&oldest).unwrap();
        user.lock_shared().unwrap();
        shrink(cache.path(), 200).unwrap();
        assert_eq!((oldest.exists(), old.exists(), model.exists(), new.exists()), (true, false, false, true));
        drop(user);
        assert!(hold(&new));
        assert!(!hold(&old));
        shrink(cache.path(), 0).unwrap();
        assert_eq!(names(), ["data/c"]);
        assert!(content(cache.path(), 0).unwrap().entries[0].in_use);
        assert!(other.exists() && std::fs::read_dir(cache.path().join("data")).unwrap().count() == 1);
    }

    #[test]
    fn a_use_makes_an_entry_the_newest() {
        let cache = tempfile::tempdir().unwrap();
        let [first, _] = [("data/a", 50), ("data/b", 40)].map(|(name, age)| entry(cache.path(), name, 1, age));
        assert!(hold(&first));
        let last = content(cache.path(), 0).unwrap().entries.pop().unwrap();
        assert_eq!((last.name.as_str(), last.in_use), ("data/a", true));
    }
}
