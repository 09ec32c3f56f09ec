//! The folder of a session that is named, or what to say if there is no such session.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;

use crate::base::error;
use crate::session::names::{check_name, missing_folder};

/// The folder of a session.
///
/// # Errors
/// Kind `usage` if the name is invalid or there is no such session.
pub(crate) fn existing_session(runs: &Path, session: &str) -> Result<std::path::PathBuf> {
    check_name("session", session)?;
    let folder = runs.join(session);
    if folder.is_dir() {
        return Ok(folder);
    }
    if let Some(why) = missing_folder(runs) {
        return Err(error::usage(format!("there is no session {session}: {why}")));
    }
    let known = newest_first(runs);
    let near = error::did_you_mean(session, known.iter().map(String::as_str)).map(|near| format!("did you mean {near}?"));
    let has = || match known.len() {
        0 => "it has none".to_string(),
        1..=SHOWN_SESSIONS => format!("it has {}", known.join(", ")),
        count => format!("the newest of its {count} are {}", known[..SHOWN_SESSIONS].join(", ")),
    };
    Err(error::usage(format!("there is no session {session} in {}; {}", runs.display(), near.unwrap_or_else(has))))
}

/// How many sessions a message names.
const SHOWN_SESSIONS: usize = 5;

/// The names of the sessions.
fn newest_first(runs: &Path) -> Vec<String> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let dated = entries.filter_map(|entry| {
        let changed = fs::metadata(entry.path().join("session.json")).or_else(|_| entry.metadata()).ok()?;
        Some((changed.modified().ok()?, entry.file_name().into_string().ok()?))
    });
    let mut found: Vec<(SystemTime, String)> = dated.filter(|(_, name)| !name.starts_with('.')).collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, name)| name).collect()
}
