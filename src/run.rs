//! The whole story of one step: parameters, session, input checks, Python, summary.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::error::{self, Error};
use crate::interrupt::{self, Handlers};
use crate::logging::{debug, failure, info};
use crate::params::{Door, Kind, resolve};
use crate::resolve::{Wanted, artifact};
use crate::session::{Running, Session, check_name, new_session_id, runs_dir};
use crate::summary::{Status, Summary, now};
use crate::task::Task;
use crate::{dataset, embed, files, logging, progress};

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    pub task: &'static Task,
    /// None: a fresh id.
    pub session: Option<String>,
    /// The subject and the parameters that were given, by name.
    pub given: Map<String, Value>,
    pub door: Door,
}

/// What came of it: the summary, and the error where it failed. A failure before there was a session has a summary too, unwritten.
#[derive(Debug)]
pub struct Outcome {
    pub summary: Summary,
    pub error: Option<anyhow::Error>,
}

impl Outcome {
    /// The summary, or the error.
    pub fn into_result(self) -> Result<Summary> {
        match self.error {
            None => Ok(self.summary),
            Some(error) => Err(error),
        }
    }
}

/// Runs one step.
pub fn step(request: Request) -> Outcome {
    let started = Instant::now();
    let session = request.session.clone().unwrap_or_else(new_session_id);
    let text = |name: &str| request.given.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let step = text("step").unwrap_or(request.task.name).to_string();
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
    summary.params = resolve(request.task.name, request.task.all_params(), request.given.clone(), request.door)?;
    request.task.source(summary.params[request.task.subject.name].as_str().unwrap_or_default())?;
    inputs(request, &summary.params, runs, &summary.session).map(drop)
}

fn in_session(request: &Request, runs: &Path, summary: &mut Summary, started: Instant) -> Result<()> {
    check_name("session", &summary.session)?;
    check_name("step", &summary.step)?;
    let _one_at_a_time = Running::begin(&summary.session, &summary.step)?;
    let mut session = Session::open(runs, &summary.session)?;
    let _log = logging::attach(&session.log_path())?;
    let argv: Vec<String> = std::env::args().collect();
    debug!("pyrust-nn {} in {}: {}", env!("CARGO_PKG_VERSION"), std::env::current_dir().unwrap_or_default().display(), argv.join(" "));
    session.begin(&summary.task, &summary.step, &argv)?;

    // A program that embeds us, or the binary: Python, where it is the host, has handlers of its own.
    let _handlers = (!embed::hosted_by_python()).then(Handlers::note_signals);
    let place = Place::find(&session.folder, &summary.step, request.given.get("overwrite") == Some(&Value::Bool(true)), request.door);
    let result = place.as_ref().map_err(|error| error::usage(error.to_string())).and_then(|place| {
        info!("step {} of session {} begins: {}", summary.step, summary.session, request.task.about);
        work(request, &mut session, runs, place, summary)
    });
    progress::clear();
    summary.finished_at = now();
    summary.duration_s = started.elapsed().as_secs_f64();
    if let Err(error) = &result {
        let error = Error::of(error);
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
    if result.is_ok() && written.is_ok() {
        info!("step {} succeeded in {:.1} s", summary.step, summary.duration_s);
    }
    session.end(summary.status)?;
    result.and(written)
}

fn work(request: &Request, session: &mut Session, runs: &Path, place: &Place, summary: &mut Summary) -> Result<()> {
    let task = request.task;
    let params = resolve(task.name, task.all_params(), request.given.clone(), request.door)?;
    summary.params.clone_from(&params);
    let subject = params[task.subject.name].as_str().unwrap_or_default();
    let source = task.source(subject)?;
    let (for_script, files) = inputs(request, &params, runs, &session.id)?;
    debug!("parameters: {}", Value::Object(params.clone()));
    interrupt::check()?;
    let hashes = hash_in_background(files);

    std::fs::create_dir_all(&place.work).with_context(|| format!("{} cannot be made", place.work.display()))?;
    let script = place.work.join("script.py");
    files::write_whole(&script, source.as_bytes())?;
    let answer = embed::call_script(&embed::Call {
        session: &session.id,
        step: &summary.step,
        session_folder: &session.folder,
        step_folder: &place.work,
        script: &script,
        door: request.door,
        user_script: task.script.is_empty(),
        params: &for_script,
    });
    if answer.is_err() {
        hashes.wanted.store(false, Ordering::Relaxed);
    }
    let mut hashed = hashes.thread.join().unwrap_or_default();
    let mut answer = answer?;
    if let Some(Value::Object(sources)) = answer.facts.shift_remove("sources") {
        let folders = sources.values().filter_map(Value::as_str).map(PathBuf::from).collect();
        hashed.extend(hash_in_background(folders).thread.join().unwrap_or_default());
    }
    for (path, hash) in hashed {
        session.note("sha256", json!({ path: hash }));
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

/// The parameters as the script gets them, paths resolved and read; and the files that the step depends on.
fn inputs(request: &Request, params: &Map<String, Value>, runs: &Path, session: &str) -> Result<(Map<String, Value>, Vec<PathBuf>)> {
    let mut for_script = params.clone();
    let mut files = Vec::new();
    for param in request.task.all_params() {
        let Some(given) = params[param.name].as_str() else { continue };
        match param.kind {
            Kind::Model | Kind::Adapter => {
                let wanted = if param.kind == Kind::Model { Wanted::Model } else { Wanted::Adapter };
                let found = artifact(given, runs, session, wanted)?;
                if found != given {
                    debug!("{} {given} is {found}", param.name);
                }
                files.push(PathBuf::from(&found));
                for_script.insert(param.name.into(), found.into());
            }
            Kind::Path if param.name == "prompts_file" && !Path::new(given).is_file() => {
                return Err(error::input(format!("there is no prompts file {given}; check {}", request.door.spell("prompts_file"))));
            }
            _ => {}
        }
    }
    if params.contains_key("dataset_path") {
        let model = for_script[request.task.subject.name].as_str().unwrap_or_default();
        files.extend(dataset::prepare_ahead(params, model, &mut progress::Bytes::new("prepare"))?);
        progress::clear();
    }
    Ok((for_script, files))
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
        session.begin(&summary.task, &summary.step, &std::env::args().collect::<Vec<_>>())?;
        failure!("step {} failed (usage): {}", summary.step, error.message);
        summary.error = Some(error.clone());
        match Place::find(&session.folder, &summary.step, true, request.door) {
            Ok(place) => place.close(&session.folder, &summary)?,
            Err(_) => write_beside(&session.folder, &summary)?,
        }
        session.end(Status::Failure)
    })();
    // What could not be kept is said by the caller's own message.
    drop(kept);
    summary.error = Some(error);
    summary
}

/// Hashes the data set and the model's files while Python works.
fn hash_in_background(paths: Vec<PathBuf>) -> Hashes {
    let wanted = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&wanted);
    let thread = std::thread::spawn(move || {
        let mut files = Vec::new();
        for path in paths {
            match std::fs::read_dir(&path) {
                Ok(entries) => files.extend(entries.flatten().map(|entry| entry.path()).filter(|file| {
                    file.is_file()
                        && file
                            .extension()
                            .is_some_and(|extension| ["safetensors", "json", "jinja"].iter().any(|known| extension == *known))
                })),
                Err(_) if path.is_file() => files.push(path),
                Err(_) => {}
            }
        }
        files.sort();
        let hash = |file: &PathBuf| files::sha256_while(file, &|| still.load(Ordering::Relaxed)).ok().flatten();
        files.iter().filter_map(|file| Some((file.to_string_lossy().into_owned(), hash(file)?))).collect()
    });
    Hashes { wanted, thread }
}

struct Hashes {
    /// Put to false, the thread ends soon: a step that is interrupted does not wait for gigabytes.
    wanted: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(String, String)>>,
}

/// Where a step writes while it runs, and where its folder is to stand.
#[derive(Debug)]
struct Place {
    work: PathBuf,
    home: PathBuf,
}

impl Place {
    /// The step's own folder where it is free or holds only a failed attempt; beside it (`.new`) where an earlier success is to be
    /// replaced.
    fn find(session: &Path, step: &str, overwrite: bool, door: Door) -> Result<Place> {
        let home = session.join(step);
        let earlier = match Summary::read(&home) {
            Ok(summary) => summary.is_none_or(|summary| summary.status == Status::Success),
            Err(_) => true,
        };
        let holds = home.join("summary.json").exists() || home.join("checkpoints").exists();
        if home.exists() && earlier && holds {
            if !overwrite {
                return Err(error::usage(format!(
                    "step {step} exists in {}; give {} to replace it, or another step name",
                    session.display(),
                    door.spell("overwrite")
                )));
            }
            let work = session.join(format!("{step}.new"));
            files::remove(&work)?;
            return Ok(Place { work, home });
        }
        let ours = holds || home.join("script.py").exists() || std::fs::read_dir(&home).is_ok_and(|mut entries| entries.next().is_none());
        if home.exists() && !ours {
            return Err(error::usage(format!("{} is there and no step of ours; choose another step name", home.display())));
        }
        files::remove(&home)?;
        Ok(Place { work: home.clone(), home })
    }

    /// Paths as the script gave them, relative to the session, under the step's final name.
    fn outputs(&self, session: &Path, step: &str, given: Map<String, Value>) -> Result<Map<String, Value>> {
        let relative = |path: &Value| -> Result<Value> {
            let path = self.work.join(path.as_str().unwrap_or_default());
            anyhow::ensure!(path.exists(), "the script named an output that does not exist: {}", path.display());
            match path.strip_prefix(&self.work) {
                Ok(inner) => Ok(Path::new(step).join(inner).to_string_lossy().into_owned().into()),
                Err(_) => Ok(path.strip_prefix(session).unwrap_or(&path).to_string_lossy().into_owned().into()),
            }
        };
        given
            .into_iter()
            .map(|(name, value)| {
                let value = match &value {
                    Value::Array(paths) => paths.iter().map(relative).collect::<Result<Value>>()?,
                    path => relative(path)?,
                };
                Ok((name, value))
            })
            .collect()
    }

    /// Writes the summary and gives the step its place.
    fn close(&self, session: &Path, summary: &Summary) -> Result<()> {
        if self.work == self.home {
            std::fs::create_dir_all(&self.work)?;
            return files::write_json(&self.work.join("summary.json"), summary);
        }
        if summary.status == Status::Failure {
            // The earlier success stays; what was tried stands beside it.
            let failed = session.join(format!("{}.failed", summary.step));
            std::fs::create_dir_all(&self.work)?;
            files::write_json(&self.work.join("summary.json"), summary)?;
            files::remove(&failed)?;
            return files::publish_folder(&self.work, &failed);
        }
        files::write_json(&self.work.join("summary.json"), summary)?;
        let old = session.join(format!("{}.old", summary.step));
        files::remove(&old)?;
        std::fs::rename(&self.home, &old)?;
        files::publish_folder(&self.work, &self.home)?;
        files::remove(&old)
    }
}

/// The summary of an attempt that had no place of its own.
fn write_beside(session: &Path, summary: &Summary) -> Result<()> {
    let failed = session.join(format!("{}.failed", summary.step));
    files::remove(&failed)?;
    std::fs::create_dir_all(&failed)?;
    files::write_json(&failed.join("summary.json"), summary)
}
