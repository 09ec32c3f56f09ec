//! Stops and resumes sessions.

use std::path::Path;

use anyhow::Result;
use serde_json::Map;

use crate::base::error;
use crate::board::program::Program;
use crate::params::interface::Interface;
use crate::pipeline::remaining;
use crate::session::existing_session::existing_session;
use crate::session::lock::{host, lock_owner};

/// Asks the process of a session to end, as Ctrl-C does: a training with checkpoints finishes its step and saves first.
///
/// # Errors
/// Kind `usage` if nothing of it runs, or not on this machine; `io` if the process may not be asked.
pub(crate) fn stop(runs: &Path, session: &str) -> Result<()> {
    let owner = lock_owner(&existing_session(runs, session)?);
    let owner = owner.ok_or_else(|| error::usage(format!("no step of session {session} is running, so there is nothing to stop")))?;
    let its_host = owner["host"].as_str().unwrap_or("?");
    if its_host != host() {
        return Err(error::usage(format!("session {session} runs on {its_host}; stop it there")));
    }
    let process = owner["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
    let process = process.ok_or_else(|| error::usage(format!("the lock of session {session} names no process; stop it by Ctrl-C")))?;
    // SAFETY: sends a signal; the number is that of a single process.
    if unsafe { libc::kill(process, libc::SIGINT) } != 0 {
        let cause = std::io::Error::last_os_error();
        return Err(error::Error::new(error::Kind::Io, format!("process {process} of session {session} cannot be stopped: {cause}")).into());
    }
    Ok(())
}

/// Resumes a session in a process of its own.
///
/// # Errors
/// Those of `pyrust-nn resume` that are known before anything runs: nothing to resume, the session is in use, a secret is missing.
pub(crate) fn resume(runs: &Path, session: &str, program: &Program) -> Result<()> {
    drop(remaining(Some(runs), session, None, &Map::new(), &Map::new(), Interface::Cli)?);
    program.start(&["resume", session, "--runs-dir", &runs.to_string_lossy()])
}
