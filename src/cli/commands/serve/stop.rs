//! `serve stop`: ends the server of a session, wherever it was started.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::base::signals::Handlers;
use crate::base::{error, progress, signals};
use crate::cli::commands::serve::serving::{Serving, serving};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::session::existing_session::existing_session;
use crate::session::lock::{lock_owner, signal_owner};
use crate::session::runs_dir;
use crate::session::step_reference::sessions;

const POLL: Duration = Duration::from_millis(50);

/// Asks the server of a session to end, as SIGTERM does, and waits until its answers in flight have ended.
///
/// # Errors
/// Kind `usage` if the session does not exist, serves nothing, or not on this machine.
pub(super) fn stop(session: Option<&str>, global: &GlobalArgs) -> Result<u8> {
    let runs = runs_dir(global.runs_dir.as_deref());
    let session = &session.map_or_else(|| only_server(&runs), |session| Ok(session.to_string()))?;
    let folder = existing_session(&runs, session)?;
    let running = running(&folder);
    let running = running.ok_or_else(|| error::usage(format!("session {session} serves nothing, so there is nothing to stop")))?;
    let _signals = Handlers::note_signals();
    signal_owner(&folder, session, libc::SIGTERM)?;
    while lock_owner(&folder).is_some() {
        progress::status(&format!("{} waits for the answers in flight", running.step));
        signals::check()?;
        std::thread::sleep(POLL);
    }
    progress::clear();
    if global.json {
        output::json(&json!({"session": session, "step": running.step, "url": running.url}));
    } else {
        output::line(&format!("step {} of session {session} no longer serves on {}", running.step, running.url));
    }
    Ok(0)
}

/// The server of the session in `folder`. The file of one that was killed is left; its lock is not.
fn running(folder: &Path) -> Option<Serving> {
    serving(folder).filter(|_| lock_owner(folder).is_some())
}

/// The session of the only server that runs.
fn only_server(runs: &Path) -> Result<String> {
    let serving: Vec<String> = sessions(runs).into_iter().filter(|session| running(&runs.join(session)).is_some()).collect();
    match &serving[..] {
        [one] => Ok(one.clone()),
        [] => Err(error::usage(format!("no session in {} serves, so there is nothing to stop", runs.display()))),
        several => Err(error::usage(format!("several sessions serve: {}; name the one to stop", several.join(", ")))),
    }
}
