//! Names of sessions and steps, and the folder of the sessions.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::base::clock::stamp;
use crate::base::error;
use crate::base::similar_path::or_similar;

/// Suffixes of the folders of earlier or failed attempts.
const RESERVED: [&str; 3] = [".failed", ".new", ".old"];

/// Checks the name of a session or step: up to 128 letters, digits, `.`, `_` and `-`, without a leading dot.
///
/// # Errors
/// Kind `usage`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !letters {
        let shown: String = name.chars().take(80).collect();
        return Err(error::usage(format!(
            "{what} {shown:?} is not a valid name: use letters, digits, '.', '_' and '-', at most 128, without a leading dot"
        )));
    }
    if what == "step" && RESERVED.iter().any(|end| name.ends_with(end)) {
        return Err(error::usage(format!("step {name:?} has a reserved suffix ({}); choose another name", RESERVED.join(", "))));
    }
    Ok(())
}

/// A new session id: the time in UTC and four hexadecimal digits.
pub fn new_session_id() -> String {
    let (stamp, nanoseconds) = stamp();
    format!("{stamp}-{:04x}", (nanoseconds ^ std::process::id().wrapping_mul(0x9e37_79b9)) & 0xffff)
}

/// The folder of the sessions: `given`, otherwise PYRUST_NN_RUNS, otherwise `runs`.
pub fn runs_dir(given: Option<&Path>) -> PathBuf {
    given
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("PYRUST_NN_RUNS").filter(|value| !value.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("runs"))
}

/// Why there is no session, if their folder does not exist.
pub(crate) fn missing_folder(runs: &Path) -> Option<String> {
    let fix = || or_similar(runs, &|path| path.is_dir(), "a first session makes it, --runs-dir names another");
    (!runs.exists()).then(|| format!("the folder {} does not exist; {}", runs.display(), fix()))
}

/// An id of one run of a pipeline. It is random, because a clock may be set back.
pub(crate) fn new_pipeline_run() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}
