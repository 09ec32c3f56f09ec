//! The version of the data engine: a hash of what determines the rows of a data set besides its input. Prepared rows are found in the cache
//! only by the same version.
//!
//! It covers the sources in `src/data/` and, by Cargo.lock, the versions of the crates. So it cannot be forgotten, and most changes of it
//! change no row; then rows are prepared once more. A program that contains this crate resolves the versions of the crates itself.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

/// The files that are hashed, sorted: relative to the crate's folder.
pub fn engine_files(root: &Path) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("Cargo.lock")];
    let mut folders = vec![PathBuf::from("src/data")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let path = folder.join(entry.file_name());
            if !entry.path().is_dir() {
                files.push(path);
            } else if path != Path::new("src/data/tests") {
                folders.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The hash of their paths and contents, as 16 hexadecimal digits.
pub fn engine_version(root: &Path) -> String {
    let mut hash = DefaultHasher::new();
    for path in engine_files(root) {
        let content = fs::read(root.join(&path)).unwrap_or_default();
        for part in [path.to_string_lossy().as_bytes(), &content] {
            hash.write_usize(part.len());
            hash.write(part);
        }
    }
    format!("{:016x}", hash.finish())
}
