//! Reads an archive again and compares every file in it with its manifest, without writing anything.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use tar::Archive;

use super::manifest::{ArchiveManifest, MANIFEST, SPDX};
use crate::base::progress::Bytes;
use crate::base::{error, hashes, progress};

/// The hash of each file of the session that an archive holds, by its path, if all are as the manifest says.
///
/// # Errors
/// Kind `input` if the archive is damaged or incomplete, `io` if it cannot be read; that of `check`.
pub(crate) fn verify_archive(path: &Path, check: &dyn Fn() -> Result<()>) -> Result<HashMap<String, String>> {
    let bad = |what: String| error::input(format!("{}: {what}; the session stays", path.display()));
    let damaged = |cause: io::Error| bad(format!("it cannot be read again ({cause})"));
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let size = file.metadata()?.len();
    let mut archive = Archive::new(zstd::Decoder::with_buffer(BufReader::with_capacity(1 << 17, file)).map_err(damaged)?);
    let mut entries = archive.entries().map_err(damaged)?;
    let mut text = Vec::new();
    entries.next().ok_or_else(|| bad("it is empty".into()))?.map_err(damaged)?.read_to_end(&mut text).map_err(damaged)?;
    let manifest: ArchiveManifest = serde_json::from_slice(&text).map_err(|cause| bad(format!("{MANIFEST} cannot be read ({cause})")))?;
    let mut left: HashMap<String, String> = manifest.files.iter().map(|file| (file.path.clone(), file.sha256.clone())).collect();
    let all = left.clone();
    let mut progress = Bytes::new("check");
    for entry in entries {
        check()?;
        let mut entry = entry.map_err(damaged)?;
        progress.report(entry.raw_file_position().min(size), size);
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = shown.strip_prefix(&format!("{}/", manifest.session)).unwrap_or(&shown).to_string();
        if name == SPDX {
            continue;
        }
        let mut reader = hashes::HashingReader::new(&mut entry);
        io::copy(&mut reader, &mut io::sink()).map_err(damaged)?;
        if left.remove(&name) != Some(reader.sha256()) {
            return Err(bad(format!("{name:?} is not what was exported: its SHA-256 differs")));
        }
    }
    progress::end();
    match left.keys().min() {
        Some(missing) => Err(bad(format!("{missing:?} is missing"))),
        None => Ok(all),
    }
}
