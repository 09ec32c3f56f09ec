//! Reads an archive again and compares every file in it with its manifest, without writing anything.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use anyhow::Result;

use super::manifest::SPDX;
use super::reading::{Complaint, manifest, opened};
use crate::base::progress::Bytes;
use crate::base::{hashes, progress};

/// The hash of each file of the session that an archive holds, by its path, if all are as the manifest says.
///
/// # Errors
/// Kind `input` if the archive is damaged or incomplete, `io` if it cannot be read; that of `check`.
pub(crate) fn verify_archive(path: &Path, check: &dyn Fn() -> Result<()>) -> Result<HashMap<String, String>> {
    let complaint = Complaint { path, consequence: "the session stays" };
    let damaged = |cause: io::Error| complaint.damaged(&cause);
    let mut archive = opened(&complaint)?;
    let mut entries = archive.entries().map_err(damaged)?;
    let manifest = manifest(entries.next(), &complaint)?;
    let total = manifest.files.iter().map(|file| file.bytes).sum();
    let mut left: HashMap<String, String> = manifest.files.iter().map(|file| (file.path.clone(), file.sha256.clone())).collect();
    let all = left.clone();
    let (mut progress, mut done) = (Bytes::new("check"), 0);
    for entry in entries {
        check()?;
        let mut entry = entry.map_err(damaged)?;
        progress.report(done, total);
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = shown.strip_prefix(&format!("{}/", manifest.session)).unwrap_or(&shown).to_string();
        if name == SPDX {
            continue;
        }
        let mut reader = hashes::HashingReader::new(&mut entry);
        done += io::copy(&mut reader, &mut io::sink()).map_err(damaged)?;
        if left.remove(&name) != Some(reader.sha256()) {
            return Err(complaint.bad(format!("{name:?} is not what was exported: its SHA-256 differs")));
        }
    }
    progress::end();
    match left.keys().min() {
        Some(missing) => Err(complaint.bad(format!("{missing:?} is missing"))),
        None => Ok(all),
    }
}
