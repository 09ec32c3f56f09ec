//! Refused attempts. An attempt is refused for an error of the kind `usage` that is found before the step begins: a wrong parameter, flag or
//! name, or a step that exists already. It leaves a line in the log of an existing session, and nothing else.
//!
//! So everything that can be refused is checked before the session is opened. Later errors are recorded in the step's summary.

use std::path::Path;

use anyhow::Result;
use log::Level;
use serde_json::{Map, Value};

use crate::base::error::{Error, Kind};
use crate::base::{cache, log_file, logging};
use crate::data::size_limits;
use crate::params::interface::Interface;
use crate::params::validate::resolve;
use crate::python;
use crate::session::names::check_name;
use crate::step::folder::StepFolder;
use crate::step::request::Request;
use crate::step::resolved_inputs::resolve_artifacts;
use crate::step::suitability;

/// Checks everything for which a step can be refused. Changes nothing.
///
/// # Errors
/// Kind `usage`. Errors of other kinds are not reported: they are found again when the step runs, and recorded.
pub(crate) fn check(request: &Request, runs: &Path, session: &str) -> Result<()> {
    let checked = (|| {
        check_name("session", session)?;
        check_name("step", request.step())?;
        let task = request.task;
        let params = resolve(task.name, task.all_params(), request.given.clone(), request.interface)?;
        task.source(params[task.input.name].as_str().unwrap_or_default())?;
        StepFolder::find(&runs.join(session), request)?;
        cache::max_bytes()?;
        log_file::max_bytes()?;
        size_limits()?;
        suitability::check(request, &params, &resolve_artifacts(request, &params, runs, session)?)?;
        check_own_params(request, &params)
    })();
    checked.or_else(|error| if Error::of(&error).kind == Kind::Usage { Err(error) } else { Ok(()) })
}

/// Refuses parameters that the text of a user's own script rules out. That takes a start of Python, which the step needs anyway.
fn check_own_params(request: &Request, params: &Map<String, Value>) -> Result<()> {
    if request.task.script.is_some() || request.is_dry() {
        return Ok(());
    }
    let script = params[request.task.input.name].as_str().unwrap_or_default();
    python::check_script_params(Path::new(script), &params["params"], request.interface == Interface::Cli)
}

/// Adds a line about a refused attempt to the session's log, if the session exists. `what` is refused: `step merge`.
///
/// The line goes to the file only, because another step may be running with this session's log, or in this process with another.
pub(crate) fn note(runs: &Path, session: &str, what: &str, error: &anyhow::Error) {
    let folder = runs.join(session);
    let error = Error::of(error);
    if error.kind == Kind::Usage && check_name("session", session).is_ok() && folder.join("session.json").is_file() {
        let causes: String = error.causes.iter().map(|cause| format!("\ncaused by: {cause}")).collect();
        let text = format!("{what} refused ({}): {}{causes}", error.kind.name(), error.message);
        // If the line cannot be written, the caller still reports the error.
        drop(logging::append(&folder.join("pipeline.log"), Level::Error, module_path!(), &text));
    }
}
