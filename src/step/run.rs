//! Runs one step: checks parameters and inputs, opens the session, calls Python, writes the summary.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use log::Level;
use serde_json::{Value, json};

use crate::base::clock::now;
use crate::base::error::{Error, Kind};
use crate::base::files::Reserve;
use crate::base::logging::Shown;
use crate::base::{error, files, logging, offline, progress, secrets, signals};
use crate::dataset::with_revisions;
use crate::params::interface::Interface;
use crate::params::validate::resolve;
use crate::python;
use crate::python::{ScriptCall, note_signals};
use crate::report::write_report_quietly;
use crate::session::names::check_name;
use crate::session::process::ProcessGuard;
use crate::session::record::Session;
use crate::session::summary::{Status, Summary};
use crate::step::family::other_family;
use crate::step::folder::StepFolder;
use crate::step::host::StepHost;
use crate::step::inputs::{InputsRecorder, StepInputs};
use crate::step::processes::{call_with_restarts, with_torchrun};
use crate::step::request::{Request, StepOutcome};
use crate::step::resolved_inputs::{ResolvedInputs, resolve_artifacts, resolve_inputs};
use crate::step::{checkpoints, folder, inputs, refusal, removal, suitability};

/// The origin of the log record with a failed step's error.
pub(crate) const RUN_ORIGIN: &str = module_path!();

/// Runs one step.
pub fn run_step(request: Request) -> StepOutcome {
    with_torchrun(request, run_own_step)
}

fn run_own_step(request: Request) -> StepOutcome {
    let started = Instant::now();
    let runs = request.runs();
    let _secrets = secrets::register(&request.given);
    let mut summary = request.new_summary();
    let result = if request.is_dry() { dry_run(&request, &runs, &mut summary) } else { in_session(&request, &runs, &mut summary, started) };
    if request.is_dry() && request.session.is_none() {
        summary.session.clear(); // the run will have another
    }
    let error = result.err().map(without_secrets);
    if let Some(error) = &error {
        summary.status = Status::Failure;
        summary.error.get_or_insert_with(|| Error::of(error));
    }
    StepOutcome { summary, error }
}

/// Checks everything that can be checked without Python. Changes nothing.
fn dry_run(request: &Request, runs: &Path, summary: &mut Summary) -> Result<()> {
    check_name("session", &summary.session)?;
    check_name("step", &summary.step)?;
    let params = resolve(request.task.name, request.task.all_params(), request.given.clone(), request.interface)?;
    summary.params = secrets::redacted(&params);
    request.task.source(params[request.task.input.name].as_str().unwrap_or_default())?;
    StepFolder::find(&runs.join(&summary.session), request)?;
    suitability::check(request, &params, &resolve_artifacts(request, &params, runs, &summary.session)?)?;
    resolve_inputs(request, &params, runs, &summary.session).map(drop)
}

fn in_session(request: &Request, runs: &Path, summary: &mut Summary, started: Instant) -> Result<()> {
    let note = |error: &anyhow::Error| refusal::note(runs, &summary.session, &format!("step {}", summary.step), error);
    refusal::check(request, runs, &summary.session).inspect_err(note)?;
    let _one_at_a_time = ProcessGuard::begin(&summary.session, &summary.step)?;
    let mut session = Session::open(runs, &summary.session)?;
    // A script may change the working directory.
    let all_sessions = std::path::absolute(runs)?;
    folder::complete_replacements(&session.folder)?;
    // Again, because another process may have run the step before the session was locked.
    let step_folder = StepFolder::find(&session.folder, request).inspect_err(note)?;
    let _log = logging::attach(&session.log_path())?;
    let _once = logging::once_scope();
    let argv = secrets::redacted_argv();
    debug!("pyrust-nn {} in {}: {}", env!("CARGO_PKG_VERSION"), std::env::current_dir().unwrap_or_default().display(), argv.join(" "));
    // Needed in the binary and in a Rust host. A Python host has its own handlers.
    let _handlers = note_signals();
    if request.given.get("offline") == Some(&Value::Bool(true)) {
        offline::log_scope();
    }
    if let Some(plan) = &request.plan {
        session.note("plan", secrets::redacted_value(plan));
    }
    summary.pipeline_run = session.pipeline_run();
    session.begin(&summary.task, &summary.step, &summary.started_at, &argv)?;
    let reserve = Reserve::hold(&session.folder);
    let verb = if request.resume { "resumes" } else { "starts" };
    let text = format!("step {} of session {} {verb}: {}", summary.step, summary.session, request.task.about);
    // A pipeline has a heading for each step.
    let shown = if request.plan.is_some() || request.resume { Shown::OffTerminal } else { Shown::Always };
    logging::emit_to(Level::Info, module_path!(), &text, shown);
    let mut stage = Stage::Preparing;
    let result = prepare_and_execute(request, &mut session, runs, &step_folder, summary, &mut stage);
    step_folder.make_private();
    // Only now, because what follows is small and must fit: the last records, the summary, the session's record.
    drop(reserve);
    let result = result.map_err(|error| {
        let error = with_resume_command(error, &summary.session, Continuation::of(request, &step_folder.working));
        without_secrets(with_spelled_overwrite(error, request.interface))
    });
    progress::end();
    summary.finished_at = now();
    summary.duration_s = started.elapsed().as_secs_f64();
    if let Err(error) = &result {
        let error = Error::of(error);
        summary.status = Status::Failure;
        if let Some(traceback) = &error.traceback {
            debug!("{traceback}");
        }
        let causes: String = error.causes.iter().map(|cause| format!("\ncaused by: {cause}")).collect();
        let is_refused = stage.can_be_refused() && refusal::refuses_before_begin(request, error.kind);
        let verb = if is_refused { "refused" } else { "failed" };
        failure!("step {} {verb} ({}): {}{causes}", summary.step, error.kind.name(), error.message);
        summary.error = Some(error);
        if is_refused {
            let removed = if stage == Stage::MadeNothing { step_folder.retract() } else { Ok(()) };
            return result.and(removed).and(removal::retract(&all_sessions, &session));
        }
    }
    let written = session.place().check().and_then(|()| step_folder.commit(&session.folder, summary));
    step_folder.remove_earlier();
    match &written {
        // The outputs may be complete, but without a summary the step has not succeeded.
        Err(error) if result.is_ok() => {
            let error = Error::of(error);
            failure!("step {} failed ({}): {}", summary.step, error.kind.name(), error.message);
            (summary.status, summary.error) = (Status::Failure, Some(error));
            step_folder.replace_success(summary);
        }
        Ok(()) if result.is_ok() => info!("step {} succeeded in {:.1} s", summary.step, summary.duration_s),
        _ => {}
    }
    let ended = session.end(summary.status, summary.error.as_ref().map(|error| error.kind));
    // Without the folder, or with another one in its place, there is nothing to report on.
    if ended.is_ok() {
        write_report_quietly(&all_sessions, &session.id);
    }
    result.and(written).and(ended)
}

/// How an interrupted step goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Continuation {
    /// From this training step's checkpoint.
    Checkpoint(u64),
    /// From its beginning. `saves`: it would have written checkpoints with `save_steps`.
    Restart { saves: bool },
    /// It did not begin, so only a pipeline goes on with it.
    NotBegun { pipeline: bool },
}

impl Continuation {
    fn of(request: &Request, working: &Path) -> Continuation {
        let newest = checkpoints::all(working).first().and_then(|folder| checkpoints::number(folder));
        match newest {
            Some(number) => Continuation::Checkpoint(number),
            None if working.join(inputs::FILE).is_file() => Continuation::Restart { saves: request.task.has("save_steps") },
            None => Continuation::NotBegun { pipeline: request.plan.is_some() },
        }
    }

    /// What becomes of the interrupted step.
    fn words(self, session: &str) -> String {
        let command = format!("`pyrust-nn resume {session}`");
        match self {
            Continuation::Checkpoint(number) => format!("{command} resumes this one from training step {number}"),
            Continuation::Restart { saves: true } => {
                format!("{command} restarts this one from its beginning, since it has no checkpoint (save_steps writes them)")
            }
            Continuation::Restart { saves: false } => format!("{command} restarts this one"),
            Continuation::NotBegun { pipeline: true } => format!("{command} starts this one again"),
            Continuation::NotBegun { pipeline: false } => "start this one again".to_string(),
        }
    }
}

/// Adds to an interruption how the step goes on. Other errors are returned unchanged.
fn with_resume_command(error: anyhow::Error, session: &str, continuation: Continuation) -> anyhow::Error {
    let read = Error::of(&error);
    if read.kind != Kind::Interrupted {
        return error;
    }
    let message = format!("{}; finished steps of the session stay, {}", read.message, continuation.words(session));
    Error { message, ..read }.into()
}

/// The error with `overwrite` as the interface writes it.
fn with_spelled_overwrite(error: anyhow::Error, interface: Interface) -> anyhow::Error {
    let read = Error::of(&error);
    match read.message.strip_suffix("with overwrite") {
        Some(before) => Error { message: format!("{before}with {}", interface.switched_on("overwrite")), ..read }.into(),
        None => error,
    }
}

/// The error as it may be written and shown.
fn without_secrets(error: anyhow::Error) -> anyhow::Error {
    let read = Error::of(&error);
    let safe = secrets::redact_error(read.clone());
    if safe == read { error } else { safe.into() }
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its parameters, models and data are looked at. Nothing of the step exists yet.
    Preparing,
    /// The step has begun.
    Begun,
    /// The step has begun, but its data were refused or its environment lacks something, before it made anything.
    MadeNothing,
}

impl Stage {
    fn can_be_refused(self) -> bool {
        self != Stage::Begun
    }
}

/// What a step works on.
struct ReadyStep {
    source: String,
    step_inputs: StepInputs,
    checkpoint: Option<PathBuf>,
    resolved: ResolvedInputs,
}

fn prepare_and_execute(
    request: &Request,
    session: &mut Session,
    runs: &Path,
    step_folder: &StepFolder,
    summary: &mut Summary,
    stage: &mut Stage,
) -> Result<()> {
    step_folder.reopen()?;
    let ready = prepare(request, session, runs, step_folder, summary)?;
    *stage = Stage::Begun;
    let mut made_nothing = false;
    let result = execute(request, ready, session, step_folder, summary, &mut made_nothing);
    if made_nothing {
        *stage = Stage::MadeNothing;
    }
    result
}

/// Looks at what the step works on. Data are prepared if that needs no Python.
fn prepare(request: &Request, session: &Session, runs: &Path, step_folder: &StepFolder, summary: &mut Summary) -> Result<ReadyStep> {
    signals::check()?; // between two steps
    let task = request.task;
    let params = resolve(task.name, task.all_params(), request.given.clone(), request.interface)?;
    summary.params = secrets::redacted(&params);
    let params = with_revisions(params)?;
    summary.params = secrets::redacted(&params);
    let subject = params[task.input.name].as_str().unwrap_or_default();
    let source = task.source(subject)?;
    let (step_inputs, checkpoint) =
        if request.resume { resume_point(&step_folder.working)? } else { (StepInputs::new(task.name, &params), None) };
    let resolved = resolve_inputs(request, &params, runs, &session.id)?;
    debug!("parameters: {}", Value::Object(summary.params.clone()));
    if ["finetune_full", "finetune_lora"].contains(&task.name)
        && let Some(note) = other_family(subject, resolved.for_script[task.input.name].as_str().unwrap_or_default())
    {
        info!("{note}");
    }
    python::start()?;
    signals::check()?;
    Ok(ReadyStep { source, step_inputs, checkpoint, resolved })
}

fn execute(
    request: &Request,
    ready: ReadyStep,
    session: &mut Session,
    step_folder: &StepFolder,
    summary: &mut Summary,
    made_nothing: &mut bool,
) -> Result<()> {
    let ReadyStep { source, step_inputs, checkpoint, resolved } = ready;
    let ResolvedInputs { mut for_script, files, datasets } = resolved;
    if checkpoint.is_none() {
        step_folder.set_earlier_aside()?;
    }
    // A user's script may have made anything before an error, and tasks without data may need the space.
    let keeps_earlier = request.task.script.is_some() && request.task.has("dataset_path");
    let can_be_refused = request.task.script.is_some() && (keeps_earlier || !step_folder.earlier().exists());
    if !keeps_earlier {
        files::remove(&step_folder.earlier())?;
    }
    if let Some(device) = checkpoint.as_deref().and_then(checkpoints::device) {
        for_script.insert("device".into(), device.into());
    }
    files::create_folders(&step_folder.working)?;
    let recorder = Arc::new(InputsRecorder::begin(&step_folder.working, step_inputs)?);
    for (name, paths) in files {
        recorder.add(name, &paths)?;
    }
    let script = step_folder.working.join("script.py");
    files::write_whole(&script, source.as_bytes())?;
    let host = Arc::new(StepHost::new(
        &summary.step,
        &step_folder.working,
        session.place(),
        Arc::clone(&recorder),
        datasets,
        step_folder.earlier(),
    ));
    let call = ScriptCall {
        session: &session.id,
        step: &summary.step,
        session_folder: &session.folder,
        step_folder: &step_folder.working,
        script: &script,
        from_text: request.interface == Interface::Cli,
        user_script: request.task.script.is_none(),
        params: &for_script,
        host: Arc::<StepHost>::clone(&host),
        checkpoint: checkpoint.as_deref(),
    };
    let answer = call_with_restarts(&call, &host);
    let lacks = |error: &anyhow::Error| host.data_refused() || [Kind::Setup, Kind::Usage].contains(&Error::of(error).kind);
    *made_nothing = can_be_refused && !host.has_made_something() && answer.as_ref().is_err_and(lacks);
    if !*made_nothing {
        host.take_environment().into_iter().for_each(|(name, value)| session.note(&name, value));
    }
    let (answer, restarts) = answer.inspect_err(|_| recorder.cancel())?;
    for (name, folder) in &answer.sources {
        recorder.add(name, &[folder.as_str().unwrap_or_default().into()])?;
    }
    for (path, hash) in recorder.finish()? {
        session.note("sha256", json!({ path.to_string_lossy(): hash }));
    }
    if let Some(seed) = summary.params.get("seed") {
        session.note("seeds", json!({ summary.step.clone(): seed }));
    }
    summary.params.extend(secrets::redacted(&answer.params));
    summary.metrics = answer.metrics;
    if restarts > 0 {
        summary.metrics.insert("restarts".into(), restarts.into());
    }
    summary.metrics.values_mut().for_each(secrets::without_known);
    summary.result = answer.result;
    secrets::without_known(&mut summary.result);
    summary.proof = answer.proof;
    summary.outputs = step_folder.outputs(&session.folder, &summary.step, answer.outputs)?;
    let fault = answer.fault.map(|fault| Error::new(Kind::Script, fault));
    let fault = fault.or_else(|| answer.unproven.map(|why| Error::new(Kind::Proof, why)));
    fault.map_or(Ok(()), |error| Err(error.into()))
}

/// The inputs of an interrupted attempt, verified to be unchanged, and its newest complete checkpoint. Without a checkpoint the step restarts.
fn resume_point(folder: &Path) -> Result<(StepInputs, Option<PathBuf>)> {
    let step_inputs = StepInputs::read(folder)?.ok_or_else(|| error::usage(format!("{} has nothing to resume", folder.display())))?;
    step_inputs.check_inputs()?;
    let checkpoint = checkpoints::newest(folder, &step_inputs)?;
    if checkpoint.is_none() {
        info!("there is no complete checkpoint, so the step restarts");
    }
    Ok((step_inputs, checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_says_how_to_resume_and_changes_no_text() {
        let cause = "OSError: /data/SESSION/a.json";
        let interrupted = || Error { causes: vec![cause.into()], ..signals::interrupted(Some(libc::SIGINT)) };
        let error = Error::of(&with_resume_command(interrupted().into(), "s1", Continuation::Restart { saves: false }));
        let message = "interrupted by Ctrl-C; finished steps of the session stay, `pyrust-nn resume s1` restarts this one";
        assert_eq!((error.kind, error.message.as_str()), (Kind::Interrupted, message));
        assert_eq!(error.causes, [cause]);
        let other = Error::new(Kind::Input, "there is no file /data/SESSION/a.json");
        assert_eq!(Error::of(&with_resume_command(other.clone().into(), "s1", Continuation::Checkpoint(4))), other);
        for (continuation, words) in [
            (Continuation::Checkpoint(40), "`pyrust-nn resume s1` resumes this one from training step 40"),
            (
                Continuation::Restart { saves: true },
                "`pyrust-nn resume s1` restarts this one from its beginning, since it has no checkpoint",
            ),
            (Continuation::NotBegun { pipeline: true }, "`pyrust-nn resume s1` starts this one again"),
            (Continuation::NotBegun { pipeline: false }, "stay, start this one again"),
        ] {
            let message = with_resume_command(interrupted().into(), "s1", continuation).to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn overwrite_is_named_as_the_interface_writes_it() {
        let error = || Error { causes: vec!["c".into()], ..Error::new(Kind::Input, "a.json has changed; restart the step with overwrite") };
        for (interface, words) in [
            (Interface::Cli, "with --overwrite"),
            (Interface::Toml, "with overwrite = true"),
            (Interface::Python, "with overwrite=True"),
            (Interface::Rust, "with overwrite: true"),
        ] {
            let spelled = Error::of(&with_spelled_overwrite(error().into(), interface));
            assert_eq!((spelled.message, spelled.causes), (format!("a.json has changed; restart the step {words}"), error().causes));
        }
    }

    /// Runs a step that is refused with the kind `input` before its script runs: its data are no JSON.
    fn fail(runs: &Path, data: &Path) -> anyhow::Error {
        std::fs::write(data, "[{").unwrap();
        let given = json!({"model": "builtin:tiny", "dataset_path": data, "runs_dir": runs});
        let task = crate::tasks::task_named("finetune_lora").unwrap();
        run_step(Request::new(task, Some("s".into()), given.as_object().cloned().unwrap(), Interface::Cli)).error.unwrap()
    }

    #[test]
    fn a_process_killed_while_it_wrote_begun_json_does_not_block_the_step() {
        let (runs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let left = runs.path().join("s/finetune_lora/.begun.json.partial-77");
        std::fs::create_dir_all(left.parent().unwrap()).unwrap();
        std::fs::write(&left, "{").unwrap();
        assert_eq!(Error::of(&fail(runs.path(), &data.path().join("a.json"))).kind, Kind::Input);
    }

    #[test]
    fn a_write_error_is_kind_io_and_hides_no_error_of_the_step() {
        let mut kinds = Vec::new();
        for number in 1.. {
            let (runs, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let attempt = || fail(runs.path(), &data.path().join("a.json"));
            assert_eq!(Error::of(&attempt()).kind, Kind::Input);
            let (error, passed) = files::with_fault(runs.path(), Some((number, libc::EIO)), attempt);
            if passed.len() < number {
                break;
            }
            kinds.push((passed[number - 1].clone(), Error::of(&error).kind));
        }
        assert!(kinds.len() > 10, "{kinds:?}");
        assert!(kinds.iter().all(|(_, kind)| [Kind::Io, Kind::Input].contains(kind)), "{kinds:?}");
        // The last write takes the session back, when the step's own error is known.
        assert_eq!(kinds.last().unwrap().1, Kind::Input, "{kinds:?}");
        assert!(kinds.iter().any(|(_, kind)| *kind == Kind::Io), "{kinds:?}");
    }
}
