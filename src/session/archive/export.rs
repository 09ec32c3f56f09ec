//! Writes a session into an archive.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use tar::{Builder, Header};

use super::manifest::{ArchiveManifest, FORMAT, IMPORTED, MANIFEST, ManifestFile, SPDX};
use super::spdx;
use crate::base::clock::now;
use crate::base::progress::Bytes;
use crate::base::{error, files, hashes, progress};
use crate::session::existing_session::existing_session;
use crate::session::lock::{host, lock};
use crate::session::record::read_record;

/// zstd's level: weights hardly become smaller, and a higher level takes longer.
const LEVEL: i32 = 3;

/// An archive that was written.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    pub session: String,
    /// The archive.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How many files of the session it holds, and their size.
    pub files: usize,
    pub content_bytes: u64,
}

/// Writes a session into `target`, by default `<session>.tar.zst` in the working directory. The session is locked meanwhile. An error of `check`, which
/// is called often, ends it.
///
/// # Errors
/// Kind `usage` if there is no such session or `target` exists, `busy` if the session is in use, `input` if it holds something that is neither a
/// file nor a folder, `io` if it cannot be written.
pub(crate) fn export_session(runs: &Path, session: &str, target: Option<&Path>, check: &dyn Fn() -> Result<()>) -> Result<Exported> {
    let folder = existing_session(runs, session)?;
    let target = target.map_or_else(|| PathBuf::from(format!("{session}.tar.zst")), Path::to_path_buf);
    if target.exists() {
        return Err(error::usage(format!("{} exists already; remove it or name another file", target.display())));
    }
    let _lock = lock(&folder, session)?;
    let record =
        read_record(&folder)?.ok_or_else(|| error::usage(format!("{} has no session.json, so it is no session", folder.display())))?;
    let paths = content(&folder, record.contains_key(IMPORTED))?;
    let mut listed = Vec::new();
    hashes::each_file(paths, check, &mut |path, sha256| listed.push((path.to_path_buf(), sha256.to_string())))?;
    let listed = listed.into_iter().map(|(path, sha256)| {
        let bytes = fs::metadata(&path).with_context(|| format!("{} cannot be read", path.display()))?.len();
        let name = path.strip_prefix(&folder)?.to_string_lossy().into_owned();
        Ok(ManifestFile { path: name, bytes, sha256 })
    });
    let mut manifest = ArchiveManifest {
        format: FORMAT,
        session: session.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        commit: Some(env!("PYRUST_NN_COMMIT").trim_matches([' ', '(', ')']).to_string()).filter(|commit| !commit.is_empty()),
        exported_at: now(),
        host: host(),
        files: listed.collect::<Result<_>>()?,
    };
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    let total = manifest.files.iter().map(|file| file.bytes).sum();
    let written = (|| -> Result<u64> {
        let file = files::Replacement::create(&target)?;
        let mut archive = Builder::new(zstd::Encoder::new(file, LEVEL)?);
        add(&mut archive, session, MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
        add(&mut archive, session, SPDX, &serde_json::to_vec_pretty(&spdx::document(&manifest, &record))?)?;
        let (mut progress, mut done) = (Bytes::new("export"), 0);
        for file in &manifest.files {
            check()?;
            progress.report(done, total);
            add_file(&mut archive, session, &folder, file)?;
            done += file.bytes;
        }
        archive.into_inner()?.finish()?.publish()?;
        Ok(fs::metadata(&target)?.len())
    })();
    progress::end();
    let bytes = written.with_context(|| format!("{} cannot be written", target.display()))?;
    Ok(Exported { session: session.to_string(), path: target, bytes, files: manifest.files.len(), content_bytes: total })
}

/// All files of a session, without its lock and what killed processes left of files; of an imported one also without the `spdx.json` of its
/// import, which the archive has anew.
fn content(folder: &Path, is_imported: bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{} cannot be read", next.display()))? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if !kind.is_file() {
                let what = if kind.is_symlink() { "a symbolic link" } else { "no regular file" };
                return Err(error::input(format!(
                    "{} is {what}, which an archive does not hold; remove it, or put the file there",
                    path.display()
                )));
            } else if path != folder.join("lock") && !files::is_partial(&entry.file_name()) && !(is_imported && path == folder.join(SPDX)) {
                files.push(path);
            }
        }
    }
    let own = [folder.join(MANIFEST), folder.join(SPDX)];
    match files.iter().find(|path| own.contains(path)) {
        Some(path) => Err(error::input(format!("{} has the name of a file that the archive needs; rename it", path.display()))),
        None => Ok(files),
    }
}

fn add(archive: &mut Builder<impl Write>, session: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), format!("{session}/{name}"), bytes)
}

/// Adds a file as it was hashed. A file that changed since then makes the archive wrong, and import would say so only later.
fn add_file(archive: &mut Builder<impl Write>, session: &str, folder: &Path, file: &ManifestFile) -> Result<()> {
    let path = folder.join(&file.path);
    let mut reader = hashes::HashingReader::new(files::open_own(&path).with_context(|| format!("{} cannot be read", path.display()))?);
    let limited = io::Read::take(&mut reader, file.bytes);
    archive.append_data(&mut header(file.bytes), format!("{session}/{}", file.path), limited)?;
    if reader.sha256() != file.sha256 {
        return Err(error::input(format!("{} changed while it was exported; export again", path.display())));
    }
    Ok(())
}

fn header(bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header
}
