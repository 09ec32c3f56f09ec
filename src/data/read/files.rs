//! The files of a data set: names, patterns and the fingerprint of their content.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use xxhash_rust::xxh3::Xxh3;

use crate::base::similar_path::or_similar;
use crate::base::{error, signals, threads};

/// The files of a data set, in the given order. Each argument is a file or a glob pattern, whose files are sorted by name. An argument that
/// is the exact name of an existing file is that file, even if it contains pattern characters.
///
/// # Errors
/// Kind `input`: a missing file, a folder, a pipe, a pattern that matches nothing.
pub fn expand(paths: &[impl AsRef<str>]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for given in paths.iter().map(AsRef::as_ref) {
        let found = if is_pattern(given) { matches(given)? } else { vec![PathBuf::from(given)] };
        for file in found {
            regular(&file)?;
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(error::input("no data set is given; give a JSON file"));
    }
    Ok(files)
}

/// A warning for each file that is named more than once, also under different names.
pub fn repeated(files: &[PathBuf]) -> Vec<String> {
    let mut seen: HashMap<PathBuf, &PathBuf> = HashMap::new();
    let mut warnings = Vec::new();
    for file in files {
        let same = file.canonicalize().unwrap_or_else(|_| file.clone());
        if let Some(first) = seen.get(&same) {
            let other = if first.as_os_str() == file.as_os_str() { String::new() } else { format!(" (also as {})", first.display()) };
            warnings.push(format!("data set {} is given twice{other}; its conversations are trained on twice as often", file.display()));
        } else {
            seen.insert(same, file);
        }
    }
    warnings
}

/// Whether a name is a glob pattern and not an existing file.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[']) && !Path::new(name).exists()
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    let found = glob::glob(pattern).map_err(|cause| error::input(format!("data set {pattern} is not a valid pattern: {cause}")))?;
    let mut files = Vec::new();
    for file in found {
        let file = file.map_err(|cause| error::input(format!("data set {pattern}: {cause}")))?;
        // `folder/*` means only the files in it.
        if !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(error::input(format!("no file matches {pattern} (looked in {}); check the pattern", here())));
    }
    Ok(files)
}

fn regular(file: &Path) -> Result<()> {
    let name = file.display();
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) if found.is_dir() => {
            Err(error::input(format!("data set {name} is a folder; give a JSON file, or a pattern such as {name}/*.jsonl")))
        }
        Ok(_) => Err(error::input(format!("data set {name} is not a regular file; give a JSON file"))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Err(missing(file)),
        Err(cause) => Err(unreadable(file, &cause)),
    }
}

/// The error for a data set that does not exist.
pub(crate) fn missing(file: &Path) -> anyhow::Error {
    // `--columns user=q assistant=a`: the second value is read as data.
    let is_pair = file.to_string_lossy().contains('=');
    let fix = if is_pair { "check the path; each NAME=VALUE needs its flag before it, such as --columns" } else { "check the path" };
    let fix = or_similar(file, &|path| path.is_file(), fix);
    error::input(format!("there is no data set {} (looked in {}); {fix}", file.display(), here()))
}

fn here() -> String {
    std::env::current_dir().unwrap_or_default().display().to_string()
}

pub(crate) fn unreadable(file: &Path, cause: &std::io::Error) -> anyhow::Error {
    error::input(format!("data set {} cannot be read: {cause}", file.display()))
}

/// Bytes of a file that one thread hashes at a time.
const PART: u64 = 8 << 20;

/// Fingerprint of the files: 128-bit XXH3 over the XXH3 of each 8 MiB of raw bytes (16 bytes, little-endian) and, after each file, its length
/// (8 bytes), so that boundaries between files matter. It is not cryptographic and only names a cache entry.
///
/// # Errors
/// Kind `input` if a file cannot be read; `interrupted`.
pub fn digest(files: &[PathBuf]) -> Result<u128> {
    let mut hash = Xxh3::new();
    for path in files {
        let file = File::open(path).map_err(|cause| unreadable(path, &cause))?;
        let length = file.metadata().map_err(|cause| unreadable(path, &cause))?.len();
        let part = |part: u64| part_digest(path, &file, part * PART, length.min((part + 1) * PART));
        for part in threads::map((0..length.div_ceil(PART)).collect(), threads::available(), part) {
            hash.update(&part?.to_le_bytes());
        }
        hash.update(&length.to_le_bytes());
    }
    Ok(hash.digest128())
}

/// The hash of the bytes from `at` to `end`.
fn part_digest(path: &Path, file: &File, mut at: u64, end: u64) -> Result<u128> {
    let mut hash = Xxh3::new();
    let mut block = vec![0; 1 << 18];
    while at < end {
        signals::check()?;
        let size = (end - at).min(block.len() as u64) as usize;
        let read = file.read_at(&mut block[..size], at).map_err(|cause| unreadable(path, &cause))?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
        at += read as u64;
    }
    Ok(hash.digest128())
}
