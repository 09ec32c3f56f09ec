//! Stops and resumes sessions.

use std::path::Path;

use anyhow::Result;
use serde_json::Map;

use crate::base::own_program::Program;
use crate::params::interface::Interface;
use crate::pipeline::remaining;
use crate::session::existing_session::existing_session;
use crate::session::lock::signal_owner;

/// Asks the process of a session to end, as Ctrl-C does: a training with checkpoints finishes its step and saves first.
///
/// # Errors
/// Kind `usage` if nothing of it runs, or not on this machine; `io` if the process may not be asked.
pub(crate) fn stop(runs: &Path, session: &str) -> Result<()> {
    signal_owner(&existing_session(runs, session)?, session, libc::SIGINT)
}

/// Resumes a session in a process of its own.
///
/// # Errors
/// Those of `pyrust-nn resume` that are known before anything runs: nothing to resume, the session is in use, a secret is missing.
pub(crate) fn resume(runs: &Path, session: &str, program: &Program) -> Result<()> {
    drop(remaining(Some(runs), session, None, &Map::new(), &Map::new(), Interface::Cli)?);
    program.start(&["resume", session, "--runs-dir", &runs.to_string_lossy()])
}
