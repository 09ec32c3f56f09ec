//! The folder of a session that is named, or what to say if there is no such session.

use std::cmp::Reverse;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::base::error;
use crate::session::names::{check_name, missing_folder};
use crate::session::step_reference::sessions;

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

/// The names of the sessions, the one that changed last first.
fn newest_first(runs: &Path) -> Vec<String> {
    let changed = |name: &String| {
        let folder = runs.join(name);
        fs::metadata(folder.join("session.json")).or_else(|_| fs::metadata(&folder)).and_then(|found| found.modified()).ok()
    };
    let mut names = sessions(runs);
    names.sort_by_cached_key(|name| Reverse((changed(name), name.clone())));
    names
}
