//! Reads a session from an archive. The archive may come from anyone: every name, kind and size is checked before a byte is written, and
//! every hash before the session has its name.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::EntryType;

use super::manifest::{ArchiveManifest, IMPORTED, MANIFEST, ManifestFile, SPDX};
use super::reading::{Complaint, manifest, opened, small_file};
use crate::base::clock::now;
use crate::base::progress::Bytes;
use crate::base::{error, files, hashes, progress};
use crate::session::names::check_name;
use crate::session::record::read_record;

/// Reads the archive `path` into a new session, by default with its own name. Returns the name. An error of `check`, which is called often,
/// ends it.
///
/// # Errors
/// Kind `usage` if the session exists or the name is invalid, `input` if the archive is damaged, incomplete or unsafe; then nothing is left of it.
/// Kind `io` if it cannot be read or written.
pub(crate) fn import_session(runs: &Path, path: &Path, session: Option<&str>, check: &dyn Fn() -> Result<()>) -> Result<String> {
    let complaint = Complaint { path, consequence: "nothing was imported" };
    let bad = |what: String| complaint.bad(what);
    let damaged = |cause: io::Error| complaint.damaged(&cause);
    if let Some(session) = session {
        check_name("session", session)?;
    }
    let mut archive = opened(&complaint)?;
    let mut entries = archive.entries().map_err(damaged)?;
    let manifest = manifest(entries.next(), &complaint)?;
    check_name("session", &manifest.session).map_err(|_| bad(format!("its session's name {:?} is not valid", manifest.session)))?;
    let mut expected = HashMap::new();
    for file in &manifest.files {
        if !file.is_inside() || expected.insert(format!("{}/{}", manifest.session, file.path), file).is_some() {
            return Err(bad(format!("its {MANIFEST} names {:?}, which leaves the folder or stands twice", file.path)));
        }
    }
    let total = manifest.files.iter().map(|file| file.bytes).sum();
    let name = session.unwrap_or(&manifest.session).to_string();
    let target = runs.join(&name);
    if target.exists() {
        return Err(error::usage(format!("session {name} exists in {}; import it under another name with --session", runs.display())));
    }
    files::create_folders(runs)?;

    let made = runs.join(format!(".importing-{name}-{}", std::process::id()));
    let imported = (|| -> Result<()> {
        files::create_folder(&made).with_context(|| format!("{} cannot be created", made.display()))?;
        let (mut progress, mut done) = (Bytes::new("import"), 0);
        for entry in entries {
            let mut entry = entry.map_err(damaged)?;
            let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if shown == format!("{}/{SPDX}", manifest.session) {
                let text = small_file(&mut entry).map_err(damaged)?;
                files::write_whole(&made.join(SPDX), &text)?;
                continue;
            }
            let file =
                expected.remove(&shown).ok_or_else(|| bad(format!("it holds {shown:?}, which its {MANIFEST} does not name, or twice")))?;
            if entry.header().entry_type() != EntryType::Regular || entry.size() != file.bytes {
                return Err(bad(format!("{shown:?} is not the file of {} bytes that its {MANIFEST} names", file.bytes)));
            }
            check()?;
            progress.report(done, total);
            write_file(&made, file, &mut entry, &bad)?;
            done += file.bytes;
        }
        if let Some(missing) = expected.keys().min() {
            return Err(bad(format!("{missing:?} is missing")));
        }
        note_origin(&made, &name, &manifest, path)?;
        files::publish_folder(&made, &target)
    })();
    progress::end();
    if imported.is_err() {
        // The first error says more than one of the removal.
        drop(files::remove(&made));
    }
    imported.map(|()| name)
}

fn write_file(made: &Path, file: &ManifestFile, entry: &mut impl Read, bad: &dyn Fn(String) -> anyhow::Error) -> Result<()> {
    let path = made.join(&file.path);
    if let Some(parent) = path.parent() {
        files::create_folders(parent)?;
    }
    let mut writer = files::Writer::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    let mut reader = hashes::HashingReader::new(entry);
    let mut block = vec![0; 1 << 17];
    loop {
        let read = reader.read(&mut block).map_err(|cause| bad(format!("it is damaged in {:?} ({cause})", file.path)))?;
        if read == 0 {
            break;
        }
        writer.write_all(&block[..read]).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if reader.sha256() != file.sha256 {
        return Err(bad(format!("{:?} is not what was exported: its SHA-256 differs", file.path)));
    }
    Ok(())
}

/// Notes in session.json where the session comes from, and its new name.
fn note_origin(made: &Path, name: &str, manifest: &ArchiveManifest, archive: &Path) -> Result<()> {
    let mut record =
        read_record(made)?.ok_or_else(|| error::input(format!("{} holds no session.json; nothing was imported", archive.display())))?;
    record.insert("id".into(), name.into());
    let origin = json!({"session": manifest.session, "host": manifest.host, "version": manifest.version, "commit": manifest.commit,
        "exported_at": manifest.exported_at, "imported_at": now()});
    record.insert(IMPORTED.into(), origin);
    files::write_json(&made.join("session.json"), &Value::Object(record))
}
