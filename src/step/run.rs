//! The whole story of one step: parameters, session, input checks, Python, summary.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::base::clock::now;
use crate::base::error::Error;
use crate::base::signals::SESSION;
use crate::base::{error, files, logging, progress, signals};
use crate::dataset::{DATASETS, StepDatasets};
use crate::params::interface::Interface;
use crate::params::param_type::ParamType;
use crate::params::validate::resolve;
use crate::python;
use crate::python::{ScriptCall, note_signals};
use crate::session::artifact::{ArtifactKind, artifact};
use crate::session::names::{check_name, new_session_id, runs_dir};
use crate::session::process::ProcessGuard;
use crate::session::record::Session;
use crate::session::summary::{Status, Summary};
use crate::step::folder::{Place, write_beside};
use crate::step::host::SessionHost;
use crate::step::inputs::{Begun, Recorder};
use crate::step::request::{Outcome, Request};
use crate::step::{checkpoints, folder};

/// The origin of the log record that says how a step failed.
pub(crate) const RUN_ORIGIN: &str = module_path!();

/// Runs one step.
pub fn run_step(request: Request) -> Outcome {
    let started = Instant::now();
    let session = request.session.clone().unwrap_or_else(new_session_id);
    let text = |name: &str| request.given.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let step = request.step().to_string();
    let runs = runs_dir(text("runs_dir").map(Path::new));
    let mut summary = Summary::new(request.task.name, &session, &step);
    summary.params = request.given.clone();

    let dry = request.given.get("dry_run") == Some(&Value::Bool(true));
    let result = if dry { dry_run(&request, &runs, &mut summary) } else { in_session(&request, &runs, &mut summary, started) };
    let error = result.err();
    if let Some(error) = &error {
        summary.status = Status::Failure;
        summary.error.get_or_insert_with(|| Error::of(error));
    }
    Outcome { summary, error }
}

/// Checks everything that can be checked without Python, and does nothing.
fn dry_run(request: &Request, runs: &Path, summary: &mut Summary) -> Result<()> {
    check_name("session", &summary.session)?;
    check_name("step", &summary.step)?;
    summary.params = resolve(request.task.name, request.task.all_params(), request.given.clone(), request.interface)?;
    request.task.source(summary.params[request.task.input.name].as_str().unwrap_or_default())?;
    inputs(request, &summary.params, runs, &summary.session).map(drop)
}

fn in_session(request: &Request, runs: &Path, summary: &mut Summary, started: Instant) -> Result<()> {
    check_name("session", &summary.session)?;
    check_name("step", &summary.step)?;
    let _one_at_a_time = ProcessGuard::begin(&summary.session, &summary.step)?;
    let mut session = Session::open(runs, &summary.session)?;
    folder::restore(&session.folder)?;
    let _log = logging::attach(&session.log_path())?;
    let argv = argv();
    debug!("pyrust-nn {} in {}: {}", env!("CARGO_PKG_VERSION"), std::env::current_dir().unwrap_or_default().display(), argv.join(" "));
    // A program that embeds us, or the binary: Python, where it is the host, has handlers of its own.
    let _handlers = note_signals();
    let place = if request.resume {
        Place::again(&session.folder, &summary.step)
    } else {
        Place::find(&session.folder, &summary.step, request.given.get("overwrite") == Some(&Value::Bool(true)), request.interface)
    };
    // A pipeline that is refused leaves what is to be resumed.
    if let (Some(plan), Ok(_)) = (&request.plan, &place) {
        session.note("plan", plan.clone());
    }
    session.begin(&summary.task, &summary.step, &argv)?;
    let result = place.as_ref().map_err(|error| error::usage(error.to_string())).and_then(|place| {
        let again = if request.resume { "is resumed" } else { "begins" };
        info!("step {} of session {} {again}: {}", summary.step, summary.session, request.task.about);
        work(request, &mut session, runs, place, summary)
    });
    progress::clear();
    summary.finished_at = now();
    summary.duration_s = started.elapsed().as_secs_f64();
    if let Err(error) = &result {
        let mut error = Error::of(error);
        error.message = error.message.replace(SESSION, &summary.session);
        summary.status = Status::Failure;
        if let Some(traceback) = &error.traceback {
            debug!("{traceback}");
        }
        let causes: String = error.causes.iter().map(|cause| format!("\ncaused by: {cause}")).collect();
        failure!("step {} failed ({}): {}{causes}", summary.step, error.kind.name(), error.message);
        summary.error = Some(error);
    }
    let written = match &place {
        Ok(place) => place.close(&session.folder, summary),
        Err(_) => write_beside(&session.folder, summary),
    };
    match &written {
        // What was made may be whole, but nobody is told of it.
        Err(error) if result.is_ok() => {
            let error = Error::of(error);
            failure!("step {} failed ({}): {}", summary.step, error.kind.name(), error.message);
            (summary.status, summary.error) = (Status::Failure, Some(error));
        }
        Ok(()) if result.is_ok() => info!("step {} succeeded in {:.1} s", summary.step, summary.duration_s),
        _ => {}
    }
    session.end(summary.status, summary.error.as_ref().map(|error| error.kind))?;
    result.and(written)
}

fn argv() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn work(request: &Request, session: &mut Session, runs: &Path, place: &Place, summary: &mut Summary) -> Result<()> {
    signals::check()?; // between two steps
    let task = request.task;
    let params = resolve(task.name, task.all_params(), request.given.clone(), request.interface)?;
    summary.params.clone_from(&params);
    let subject = params[task.input.name].as_str().unwrap_or_default();
    let source = task.source(subject)?;
    let (begun, checkpoint) = if request.resume { goes_on(&place.work)? } else { (Begun::new(task.name, &params), None) };
    let Inputs { mut for_script, files, datasets } = inputs(request, &params, runs, &session.id)?;
    debug!("parameters: {}", Value::Object(params.clone()));
    signals::check()?;

    if checkpoint.is_none() {
        files::remove(&place.work)?; // what an interrupted attempt left
    }
    if let Some(device) = checkpoint.as_deref().and_then(checkpoints::device) {
        for_script.insert("device".into(), device.into());
    }
    files::create_folders(&place.work).with_context(|| format!("{} cannot be made", place.work.display()))?;
    let recorder = Arc::new(Recorder::begin(&place.work, begun)?);
    for (name, paths) in files {
        recorder.add(name, &paths)?;
    }
    let script = place.work.join("script.py");
    files::write_whole(&script, source.as_bytes())?;
    let answer = python::call_script(&ScriptCall {
        session: &session.id,
        step: &summary.step,
        session_folder: &session.folder,
        step_folder: &place.work,
        script: &script,
        from_text: request.interface == Interface::Cli,
        user_script: task.script.is_none(),
        params: &for_script,
        host: Arc::new(SessionHost::new(&summary.step, &place.work, Arc::clone(&recorder), datasets)),
        checkpoint: checkpoint.as_deref(),
    });
    let mut answer = answer.inspect_err(|_| recorder.give_up())?;
    if let Some(Value::Object(sources)) = answer.facts.shift_remove("sources") {
        for (name, folder) in &sources {
            recorder.add(name, &[folder.as_str().unwrap_or_default().into()])?;
        }
    }
    for (path, hash) in recorder.finish()? {
        session.note("sha256", json!({ path.to_string_lossy(): hash }));
    }
    if let Some(seed) = params.get("seed") {
        session.note("seeds", json!({ summary.step.clone(): seed }));
    }
    for (name, value) in answer.facts {
        session.note(&name, value);
    }
    summary.params.extend(std::mem::take(&mut answer.params));
    summary.metrics = answer.metrics;
    summary.result = answer.result;
    summary.outputs = place.outputs(&session.folder, &summary.step, answer.outputs)?;
    Ok(())
}

/// What an attempt was begun with, nothing of it changed, and its newest whole checkpoint. Without one it begins anew.
fn goes_on(folder: &Path) -> Result<(Begun, Option<PathBuf>)> {
    let begun = Begun::read(folder)?.ok_or_else(|| error::usage(format!("{} has nothing to resume", folder.display())))?;
    begun.check_inputs()?;
    let checkpoint = checkpoints::newest(folder, &begun)?;
    if checkpoint.is_none() {
        info!("there is no whole checkpoint, so the step begins anew");
    }
    Ok((begun, checkpoint))
}

/// What a step works on, resolved and read before Python starts.
struct Inputs {
    /// The parameters that the script gets.
    for_script: Map<String, Value>,
    /// The files that the step depends on, by parameter.
    files: Vec<(&'static str, Vec<PathBuf>)>,
    datasets: StepDatasets,
}

fn inputs(request: &Request, params: &Map<String, Value>, runs: &Path, session: &str) -> Result<Inputs> {
    let mut for_script = params.clone();
    let mut files = Vec::new();
    for param in request.task.all_params() {
        let Some(given) = params[param.name].as_str() else { continue };
        match param.value_type {
            ParamType::Model | ParamType::Adapter => {
                let wanted = if param.value_type == ParamType::Model { ArtifactKind::Model } else { ArtifactKind::Adapter };
                let found = artifact(given, runs, session, wanted)?;
                if found != given {
                    debug!("{} {given} is {found}", param.name);
                }
                files.push((param.name, vec![PathBuf::from(&found)]));
                for_script.insert(param.name.into(), found.into());
            }
            ParamType::Path if param.name == "prompts_file" && !Path::new(given).is_file() => {
                return Err(error::input(format!("there is no prompts file {given}; check {}", request.interface.spell("prompts_file"))));
            }
            _ => {}
        }
    }
    let datasets = StepDatasets::new(for_script.clone(), runs, session);
    for name in DATASETS {
        if params.get(name).is_some_and(|given| !given.is_null()) {
            files.push((name, datasets.prepare_ahead(name)?));
        }
    }
    Ok(Inputs { for_script, files, datasets })
}

/// A step that the command line could not read: its session gets a summary of the failure all the same.
pub fn refused(request: &Request, error: Error) -> Summary {
    let mut summary = Summary::new(request.task.name, request.session.clone().unwrap_or_default(), request.task.name);
    let text = |name: &str| request.given.get(name).and_then(Value::as_str);
    summary.step = text("step").unwrap_or(request.task.name).to_string();
    summary.params = request.given.clone();
    summary.status = Status::Failure;
    let runs = runs_dir(text("runs_dir").map(Path::new));
    let kept = (|| -> Result<()> {
        check_name("step", &summary.step)?;
        let mut session = Session::open(&runs, &summary.session)?;
        let _log = logging::attach(&session.log_path())?;
        session.begin(&summary.task, &summary.step, &argv())?;
        failure!("step {} failed (usage): {}", summary.step, error.message);
        summary.error = Some(error.clone());
        match Place::find(&session.folder, &summary.step, false, request.interface) {
            Ok(place) => place.close(&session.folder, &summary)?,
            Err(_) => write_beside(&session.folder, &summary)?,
        }
        session.end(Status::Failure, Some(error.kind))
    })();
    // What could not be kept is said by the caller's own message.
    drop(kept);
    summary.error = Some(error);
    summary
}
