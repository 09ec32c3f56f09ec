//! Removes sessions, or parts of them that nobody needs any more. A session in use is never touched: each removal holds its lock.
//!
//! What is removed is renamed first, so that half of it never looks like a whole, and a removal that was killed is completed by the next.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::base::error::{Error, Kind};
use crate::base::{files, hashes};
use crate::session::existing_session::existing_session;
use crate::session::lock::{lock, lock_owner};
use crate::session::record::Session;
use crate::session::{Exported, SessionState, Status, Summary, export_session, folder_bytes, verify_archive};
use crate::step::checkpoints;

/// How the names of what is being removed begin. No session or step has such a name.
const PREFIX: &str = ".removed-";

/// Something that can be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Removable {
    pub session: String,
    /// `session`, or what is removed of it: a folder relative to it.
    pub part: String,
    pub bytes: u64,
    #[serde(skip)]
    path: PathBuf,
}

impl Removable {
    /// A whole session.
    ///
    /// # Errors
    /// Kind `usage` if there is no such session.
    pub(crate) fn session(runs: &Path, session: &str) -> Result<Removable> {
        let path = existing_session(runs, session)?;
        Ok(Removable { session: session.to_string(), part: "session".into(), bytes: folder_bytes(&path), path })
    }

    fn part(folder: &Path, session: &str, part: PathBuf) -> Option<Removable> {
        let path = folder.join(&part);
        let bytes = folder_bytes(&path);
        (bytes > 0).then(|| Removable { session: session.to_string(), part: part.to_string_lossy().into_owned(), bytes, path })
    }
}

/// Whether a process uses a session now.
pub(crate) fn is_in_use(runs: &Path, session: &str) -> bool {
    lock_owner(&runs.join(session)).is_some()
}

/// The checkpoints of the steps that succeeded: those of others are needed to resume.
pub(crate) fn spent_checkpoints(runs: &Path, session: &SessionState) -> Vec<Removable> {
    let folder = runs.join(&session.session);
    let ended = session
        .steps
        .iter()
        .filter(|step| matches!(Summary::read(&folder.join(&step.step)), Ok(Some(summary)) if summary.status == Status::Success));
    ended.filter_map(|step| Removable::part(&folder, &session.session, Path::new(&step.step).join(checkpoints::FOLDER))).collect()
}

/// The folders of failed attempts beside an earlier success, which stays.
pub(crate) fn failed_attempts(runs: &Path, session: &SessionState) -> Vec<Removable> {
    let folder = runs.join(&session.session);
    let failed = session.steps.iter().map(|step| step.step.as_str()).filter(|step| step.ends_with(".failed"));
    failed.filter_map(|step| Removable::part(&folder, &session.session, PathBuf::from(step))).collect()
}

/// Removes parts of sessions, or whole sessions.
///
/// # Errors
/// Kind `busy` if a process uses the session, `io` if something cannot be removed; the parts before it are removed then.
pub(crate) fn remove(runs: &Path, parts: &[Removable]) -> Result<()> {
    complete_earlier_removals(runs)?;
    for part in parts {
        let folder = runs.join(&part.session);
        let lock = lock(&folder, &part.session)?;
        let gone = set_aside(runs, &part.session, &part.path)?;
        if part.path != folder {
            // The list of sessions looks at a session again if its record has changed.
            let record = File::open(folder.join("session.json")).and_then(|record| files::set_modified_now(&record));
            record.with_context(|| format!("{} cannot be changed", folder.join("session.json").display()))?;
        }
        drop(lock);
        files::remove(&gone)?;
    }
    Ok(())
}

/// Writes a session into an archive, reads that again, and removes the session if it is still as it was exported.
///
/// # Errors
/// Those of the export; kind `input` if the archive is damaged, `busy` if the session is used or has changed meanwhile. The session stays then.
pub(crate) fn archive_session(runs: &Path, part: &Removable, target: &Path, check: &dyn Fn() -> Result<()>) -> Result<Exported> {
    let exported = export_session(runs, &part.session, Some(target), check)?;
    let archived = verify_archive(target, check)?;
    complete_earlier_removals(runs)?;
    let lock = lock(&part.path, &part.session)?;
    // A step that has run since then has changed the record.
    let mut record = Sha256::new();
    record.update(fs::read(part.path.join("session.json"))?);
    if archived.get("session.json") != Some(&hashes::hexadecimal(record)) {
        let message = format!("session {} was used while it was archived; it stays, and so does {}", part.session, target.display());
        return Err(Error::new(Kind::Busy, message).into());
    }
    let gone = set_aside(runs, &part.session, &part.path)?;
    drop(lock);
    files::remove(&gone)?;
    Ok(exported)
}

/// Takes back an attempt that was refused after its session had been opened: a new session is removed, another one's record is what it was.
///
/// # Errors
/// Kind `io`.
pub(crate) fn retract(runs: &Path, session: &Session) -> Result<()> {
    if !session.is_new {
        return session.restore();
    }
    session.place().check()?;
    files::remove(&set_aside(runs, &session.id, &session.folder)?)
}

/// Renames what is to be removed, and returns its new path.
fn set_aside(runs: &Path, session: &str, path: &Path) -> Result<PathBuf> {
    let gone = runs.join(format!("{PREFIX}{session}-{}", std::process::id()));
    files::rename(path, &gone).with_context(|| format!("{} cannot be removed", path.display()))?;
    Ok(gone)
}

fn complete_earlier_removals(runs: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(runs) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}
