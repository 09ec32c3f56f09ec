//! Refused attempts. An attempt is refused for an error that is found before the step begins: a wrong parameter, flag or name, a step that
//! exists already, a file, a model, a GPU, a compiler or a Python environment that does not exist or does not work, data that cannot be
//! trained on. It leaves a line in the log of an existing session, and nothing else.
//!
//! What can be checked without work is checked before the session is opened. Python starts before that too: if the start ends the process,
//! there is no session that it leaves. Data are prepared in the session, whose log and state show it; if they are refused then, `run.rs`
//! takes everything back. Later errors are recorded in the step's summary.

use std::path::Path;

use anyhow::Result;
use log::Level;
use serde_json::{Map, Value};

use crate::base::error::{Error, Kind};
use crate::base::{cache, log_file, logging};
use crate::data::size_limits;
use crate::params::interface::Interface;
use crate::params::param::Param;
use crate::params::param_type::ParamType;
use crate::params::validate::resolve;
use crate::python;
use crate::session::artifact::{TINY, names_in};
use crate::session::hub_names::downloaded;
use crate::session::names::check_name;
use crate::step::devices::check_device_in_python;
use crate::step::folder::StepFolder;
use crate::step::request::Request;
use crate::step::resolved_inputs::{resolve_artifacts, validate_files};
use crate::step::suitability;

/// Checks everything for which a step can be refused. Changes nothing.
///
/// # Errors
/// Kinds `usage`, `input` and `model`; `setup` if there is no Python environment to use and none can be made, if Python cannot start in it,
/// or if there is no compiler for `compile`. Errors of other kinds are not reported: they are found again when the step runs, and recorded.
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
        let artifacts = resolve_artifacts(request, &params, runs, session)?;
        suitability::check(request, &params, &artifacts)?;
        validate_files(request, &params, &artifacts)?;
        Ok((params, artifacts))
    })();
    let recorded_later =
        |error: anyhow::Error| if refuses(request, Error::of(&error).kind, &runs.join(session)) { Err(error) } else { Ok(()) };
    let (params, artifacts) = match checked {
        Ok(found) => found,
        Err(error) => return recorded_later(error),
    };
    // A first environment is created in the session, whose log shows it.
    if request.is_dry() || !python::start_or_check_environment()? {
        return Ok(());
    }
    check_in_python(request, &params, &artifacts).or_else(recorded_later)?;
    match params.get("device").and_then(Value::as_str) {
        Some(device) if params.get("compile") == Some(&Value::Bool(true)) && !request.resume => python::check_compiler(device),
        _ => Ok(()),
    }
}

/// Checks what only Python can tell.
fn check_in_python(request: &Request, params: &Map<String, Value>, artifacts: &[(&'static Param, Vec<String>)]) -> Result<()> {
    check_own_params(request, params)?;
    if request.resume {
        return Ok(());
    }
    if let Some(Value::Array(names)) = params.get("report_to") {
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        python::check_reports(&names, request.interface)?;
    }
    if let Some(types) = params.get("tensor_type").filter(|types| !types.is_null()) {
        python::check_tensor_patterns(types)?;
    }
    if !answers_in_gguf(artifacts) {
        check_device_in_python(params)?;
    }
    let is_on_hub = |name: &&String| *name != TINY && !Path::new(name).exists() && downloaded(name).is_none();
    let mut names = artifacts.iter().flat_map(|(_, found)| found).filter(is_on_hub);
    names.try_for_each(|name| python::check_hub_model(name, request.is_offline()))
}

/// Whether an error of that kind, found now, refuses the attempt.
fn refuses(request: &Request, kind: Kind, session: &Path) -> bool {
    match kind {
        Kind::Usage => true,
        // A resumed step has begun. What is missing now was there before, so it has changed, which the step itself reports.
        Kind::Input | Kind::Model => !request.resume && !may_be_made(request, session),
        _ => false,
    }
}

/// Whether an error of that kind, found after the session was opened and before the step made anything, refuses the attempt. Steps of a
/// pipeline that have run stay, so a later one fails.
pub(crate) fn refuses_before_begin(request: &Request, kind: Kind) -> bool {
    matches!(kind, Kind::Usage | Kind::Input | Kind::Model | Kind::Setup) && !request.resume && request.earlier().next().is_none()
}

/// Whether an earlier step of the pipeline may yet make what this one names: a user's own script can write anywhere, other steps in the
/// folder of their session.
fn may_be_made(request: &Request, session: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let own = absolute(session);
    let is_name = |of: ParamType| of.is_artifact() || [ParamType::Path, ParamType::Paths].contains(&of);
    let params = request.task.all_params().filter(|param| is_name(param.value_type) && param.name != "runs_dir");
    let mut names = params.flat_map(|param| names_in(request.given.get(param.name)));
    request.earlier().any(|(_, task)| task == "script")
        || (request.earlier().next().is_some() && names.any(|name| absolute(Path::new(name)).starts_with(&own)))
}

/// Whether llama.cpp answers, which needs no torch.
fn answers_in_gguf(artifacts: &[(&Param, Vec<String>)]) -> bool {
    let model = artifacts.iter().find(|(param, _)| param.value_type == ParamType::AnsweringModel);
    model.and_then(|(_, found)| found.first()).is_some_and(|found| found.to_lowercase().ends_with(".gguf"))
}

/// Refuses parameters that the text of a user's own script rules out. That takes a start of Python, which the step needs anyway.
fn check_own_params(request: &Request, params: &Map<String, Value>) -> Result<()> {
    if request.task.script.is_some() {
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
    let is_refusal = matches!(error.kind, Kind::Usage | Kind::Input | Kind::Model | Kind::Setup);
    if is_refusal && check_name("session", session).is_ok() && folder.join("session.json").is_file() {
        let causes: String = error.causes.iter().map(|cause| format!("\ncaused by: {cause}")).collect();
        let text = format!("{what} refused ({}): {}{causes}", error.kind.name(), error.message);
        // If the line cannot be written, the caller still reports the error.
        drop(logging::append(&folder.join("pipeline.log"), Level::Error, module_path!(), &text));
    }
}
