//! Functions of the Rust API besides the tasks: pipelines, resuming, and Python for the caller's own work.
//!
//! `with_python_env` does not list its work in session.json, because it has no task and no parameters.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::{logging, signals};
use crate::params::interface::Interface;
use crate::pipeline::Reproduction;
use crate::session::{self, Exported, ProcessGuard, Session, Summary, runs_dir};
use crate::step::StepOutcome;
use crate::{pipeline, python};

/// Runs a pipeline file. `overrides` replace its values in every step that has the parameter, but no reference to an
/// earlier step. Stops at the first step that fails.
///
/// # Errors
/// Kind `usage` if the file or one of its parameters is wrong; then no step has run. Otherwise the error of the step that failed.
pub fn run_pipeline(session: &str, path: &Path, overrides: Map<String, Value>) -> Result<Vec<Summary>> {
    let plan = pipeline::open(path, overrides, Some(session.to_string()), Interface::Rust)?;
    plan.run(|_| {}, |_| {})?.into_iter().map(StepOutcome::into_result).collect()
}

/// Resumes an interrupted session (runs directory: PYRUST_NN_RUNS, otherwise `runs`). Fine-tuning resumes from its last complete
/// checkpoint, other steps restart. Then the remaining steps of the session's pipeline run. With `step`, only that step is resumed.
///
/// # Errors
/// Kind `usage` if there is nothing to resume. Otherwise the error of the step that failed.
pub fn resume(session: &str, step: Option<&str>) -> Result<Vec<Summary>> {
    resume_with_secrets(session, step, Map::new())
}

/// Like [`resume`], with the secrets that the remaining steps need, because a session does not store them. Each is named as its parameter,
/// such as `api_key`; within another value with a dot, such as `service.token`; of one step only with the step before it, `fetch/api_key`.
/// One that is not given is read from the environment variable `PYRUST_NN_SECRET_API_KEY`.
///
/// # Errors
/// Kind `usage` if a secret is missing, or one is given that no step needs. Otherwise as `resume`.
pub fn resume_with_secrets(session: &str, step: Option<&str>, secrets: Map<String, Value>) -> Result<Vec<Summary>> {
    let plan = pipeline::remaining(None, session, step, &secrets, &Map::new(), Interface::Rust)?;
    plan.run(|_| {}, |_| {})?.into_iter().map(StepOutcome::into_result).collect()
}

/// Runs the steps of a session that succeeded again, in a new session (runs directory: PYRUST_NN_RUNS, otherwise `runs`), and compares what they made.
/// The new session is `into`, by default `SESSION-again`. `secrets` as for [`resume_with_secrets`].
///
/// # Errors
/// Kind `usage` if there is no such session, nothing in it succeeded, the new session exists or a secret is missing. Otherwise the error of the step that
/// failed. A difference is no error: see [`Reproduction::same`].
pub fn reproduce(session: &str, into: Option<&str>, secrets: Map<String, Value>) -> Result<Reproduction> {
    let plan = pipeline::reproduction(None, session, into, &secrets, Interface::Rust)?;
    let copy = plan.session.clone();
    plan.run(|_| {}, |_| {})?.into_iter().try_for_each(|outcome| outcome.into_result().map(drop))?;
    pipeline::check(&runs_dir(None), session, &copy)
}

/// Writes a session (runs directory: PYRUST_NN_RUNS, otherwise `runs`) into one file, by default `<session>.tar.zst`, with the hash of every file in it
/// and an SPDX list of what it was made from.
///
/// # Errors
/// Kind `usage` if there is no such session or the file exists, `busy` if the session is in use, `input` if it holds a symbolic link or device, `io`.
pub fn export_session(session: &str, path: Option<&Path>) -> Result<Exported> {
    session::export_session(&runs_dir(None), session, path, &signals::check)
}

/// Reads a session from an archive that `export_session` wrote, under its own name or as `session`. Checks every file; returns the name.
///
/// # Errors
/// Kind `input` if the archive is damaged, incomplete or unsafe; then nothing is left of it. Kind `usage` if the session exists, `io`.
pub fn import_session(path: &Path, session: Option<&str>) -> Result<String> {
    session::import_session(&runs_dir(None), path, session, &signals::check)
}

/// Calls `work` with Python in a session. Meanwhile the session is locked, Python's logging and streams go to its log, and Ctrl-C raises
/// `KeyboardInterrupt`.
///
/// ```no_run
/// let version = pyrust_nn::with_python_env("s1", |py| {
///     use pyrust_nn::pyo3::prelude::*;
///     Ok(py.import("torch")?.getattr("__version__")?.str()?.to_string())
/// })?;
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// The closure's own error, or kind `busy` (session or process in use) or `setup` (no Python environment).
pub fn with_python_env<T>(session: &str, work: impl FnOnce(pyo3::Python<'_>) -> Result<T>) -> Result<T> {
    let _one_at_a_time = ProcessGuard::begin(session, "with_python_env")?;
    let session = Session::open(&runs_dir(None), session)?;
    let _log = logging::attach(&session.log_path())?;
    python::with_python(work)
}
