//! A server as a step of a session: lock, folder, log, session.json and summary. It is not the process's one step, so that steps can run
//! beside it, in other sessions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use log::Level;
use serde_json::{Map, Value};

use crate::base::clock::now;
use crate::base::error::{Error, Kind};
use crate::base::logging::Shown;
use crate::base::numbers::counted;
use crate::base::{error, files, secrets};
use crate::params::interface::Interface;
use crate::report::write_report;
use crate::serve::serve_params::NAME;
use crate::serve::server_log::ServerLog;
use crate::session::names::check_name;
use crate::session::{Session, Status, Summary};

/// Where a server listens, in its step's folder while it serves.
pub(crate) const SERVER_FILE: &str = "server.json";

pub(crate) struct ServerStep {
    session: Session,
    folder: PathBuf,
    pub(crate) summary: Summary,
    pub(crate) log: Arc<ServerLog>,
    started: Instant,
}

impl ServerStep {
    /// Locks the session, makes the step's folder and records the start.
    ///
    /// # Errors
    /// Kind `busy` if the session is in use, `usage` if a name is wrong or the step exists.
    pub(crate) fn begin(runs: &Path, session: &str, params: &Map<String, Value>, interface: Interface) -> Result<ServerStep> {
        let mut session = Session::open(runs, session)?;
        let step = free_step(&session.folder, params["step"].as_str(), interface)?;
        let folder = session.folder.join(&step);
        files::create_folders(&folder)?;
        // A terminal shows each request; a program that serves has a console of its own.
        let requests = if interface == Interface::Cli { Shown::Always } else { Shown::Verbose };
        let log = Arc::new(ServerLog::open(&session.log_path(), requests)?);
        let argv = secrets::redacted_argv();
        log.emit(Level::Debug, &format!("pyrust-nn {}: {}", env!("CARGO_PKG_VERSION"), argv.join(" ")));
        let summary = Summary { params: secrets::redacted(params), ..Summary::new(NAME, &session.id, &step) };
        session.begin(NAME, &step, &summary.started_at, &argv)?;
        Ok(ServerStep { session, folder, summary, log, started: Instant::now() })
    }

    /// Records where it serves, for other programs: `server.json` in the step's folder.
    pub(crate) fn serving(&mut self, result: Value) -> Result<()> {
        files::write_json(&self.folder.join(SERVER_FILE), &result)?;
        self.summary.result = result;
        Ok(())
    }

    /// Records the end, and with which error.
    pub(crate) fn end(mut self, error: Option<Error>) -> Result<Summary> {
        self.summary.metrics = self.log.metrics();
        self.summary.finished_at = now();
        self.summary.duration_s = self.started.elapsed().as_secs_f64();
        let error = error.map(secrets::redact_error);
        match &error {
            None => {
                let requests = counted(self.summary.metrics["requests"].as_u64().unwrap_or_default(), "request");
                let text = format!("step {} ended after {requests}", self.summary.step);
                self.log.emit(Level::Info, &text);
            }
            Some(error) => {
                self.log.emit(Level::Debug, &format!("step {} failed ({}): {}", self.summary.step, error.kind.name(), error.message));
                self.summary.status = Status::Failure;
            }
        }
        let kind = error.as_ref().map(|error| error.kind);
        self.summary.error = error;
        let written = self.session.place().check().and_then(|()| {
            // It no longer listens there.
            files::remove(&self.folder.join(SERVER_FILE))?;
            files::write_json(&self.folder.join("summary.json"), &self.summary)
        });
        let kind = kind.or(if written.is_err() { Some(Kind::Io) } else { None });
        let status = if kind.is_some() { Status::Failure } else { Status::Success };
        let ended = self.session.end(status, kind);
        // As at the end of other steps, the session's page must not change how this one ended.
        if ended.is_ok()
            && let Some(runs) = self.session.folder.parent()
            && let Err(cause) = write_report(runs, &self.session.id)
        {
            self.log.emit(Level::Warn, &format!("the report of session {} was not written: {cause:#}", self.session.id));
        }
        written.and(ended)?;
        Ok(self.summary)
    }
}

/// The name of the step: the given one, else the first of serve, serve-2, … that does not exist.
fn free_step(session: &Path, given: Option<&str>, interface: Interface) -> Result<String> {
    let Some(step) = given else {
        let mut names = std::iter::once(NAME.to_string()).chain((2..).map(|number| format!("{NAME}-{number}")));
        return Ok(names.find(|name| !session.join(name).exists()).unwrap_or_default());
    };
    check_name("step", step)?;
    if session.join(step).exists() {
        let message =
            format!("step {step} exists in {}; give {} another name, or leave it out", session.display(), interface.spell("step"));
        return Err(error::usage(message));
    }
    Ok(step.to_string())
}
