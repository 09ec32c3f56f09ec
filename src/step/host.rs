//! The host of a step's script: passes progress to the terminal and the log, metrics and checkpoints to the step's folder, and
//! dependencies to its inputs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error::{Error, Kind};
use crate::base::progress::{Progress, Update};
use crate::base::{files, progress, signals};
use crate::dataset::StepDatasets;
use crate::python::script_host::ScriptHost;
use crate::session::folder_identity::FolderIdentity;
use crate::step::checkpoints;
use crate::step::inputs::InputsRecorder;

pub(crate) struct StepHost {
    metrics: PathBuf,
    progress: Mutex<Progress>,
    recorder: Arc<InputsRecorder>,
    datasets: StepDatasets,
    session: FolderIdentity,
    data_refused: AtomicBool,
    worker_lost: AtomicBool,
    environment: Mutex<Map<String, Value>>,
    /// An earlier attempt, until this one has made something.
    earlier: Mutex<Option<PathBuf>>,
}

impl StepHost {
    pub(crate) fn new(
        step: &str,
        folder: &Path,
        session: FolderIdentity,
        recorder: Arc<InputsRecorder>,
        datasets: StepDatasets,
        earlier: PathBuf,
    ) -> StepHost {
        let (metrics, progress) = (folder.join("metrics.jsonl"), Mutex::new(Progress::new(step)));
        let earlier = Mutex::new(Some(earlier));
        let (data_refused, worker_lost) = (AtomicBool::default(), AtomicBool::default());
        StepHost { metrics, progress, recorder, datasets, session, data_refused, worker_lost, environment: Mutex::default(), earlier }
    }

    /// Whether the step has made something that is kept.
    pub(crate) fn has_made_something(&self) -> bool {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// The first time, removes the earlier attempt.
    fn makes_something(&self) -> Result<()> {
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner).take();
        earlier.map_or(Ok(()), |earlier| files::remove(&earlier))
    }

    /// Python's version, those of packages, the GPU; empty if the script was not loaded.
    pub(crate) fn take_environment(&self) -> Map<String, Value> {
        std::mem::take(&mut *self.environment.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the script was refused a data set, because of what is in its files.
    pub(crate) fn data_refused(&self) -> bool {
        self.data_refused.load(Ordering::Relaxed)
    }

    /// Whether the script has failed since the last call because a worker ended.
    pub(crate) fn take_worker_lost(&self) -> bool {
        self.worker_lost.swap(false, Ordering::Relaxed)
    }
}

impl ScriptHost for StepHost {
    fn environment(&self, facts: Map<String, Value>) {
        *self.environment.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// Also checks for Ctrl-C, because Python raises KeyboardInterrupt only on its main thread.
    fn progress(&self, done: u64, total: u64, text: &str) -> Result<()> {
        self.session.check()?;
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).report(Update { done, total, text });
        signals::check()
    }

    fn metric(&self, line: &str) -> Result<()> {
        self.session.check()?;
        self.makes_something()?;
        files::append_line(&self.metrics, line).and_then(|()| signals::check())
    }

    fn depends_on(&self, name: &str, path: &Path) -> Result<()> {
        self.session.check()?;
        self.recorder.add(name, &[path.to_path_buf()])
    }

    fn dataset(&self, name: &str, script: Option<&Map<String, Value>>) -> Result<Value> {
        self.datasets.get(name, script).inspect_err(|error| {
            self.data_refused.fetch_or(Error::of(error).kind == Kind::Input, Ordering::Relaxed);
        })
    }

    fn publish_checkpoint(&self, made: &Path, target: &Path) -> Result<()> {
        self.session.check()?;
        self.makes_something()?;
        self.recorder.copy_to(made)?;
        files::sync(&self.metrics)?;
        checkpoints::publish(made, target)
    }

    fn worker_lost(&self) {
        self.worker_lost.store(true, Ordering::Relaxed);
    }

    fn stream(&self, text: &str) {
        progress::stream(text);
    }
}
