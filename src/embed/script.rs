//! Calls a script's `run(params, session)` and reads its answer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{from_python, interpreter};
use crate::begun::Recorder;
use crate::interrupt::{self, Handlers};
use crate::params::Door;
use crate::progress::{self, Progress, Update};
use crate::{checkpoints, files};

/// What is called with what.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub session: &'a str,
    pub step: &'a str,
    pub session_folder: &'a Path,
    pub step_folder: &'a Path,
    pub script: &'a Path,
    pub door: Door,
    /// The user's own script, whose PARAMS are to be checked.
    pub user_script: bool,
    pub params: &'a Map<String, Value>,
    pub recorder: &'a Arc<Recorder>,
    /// The checkpoint that a training goes on from.
    pub checkpoint: Option<&'a Path>,
}

/// What a script gave back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    pub outputs: Map<String, Value>,
    pub metrics: Map<String, Value>,
    /// Parameters that the script resolved.
    pub params: Map<String, Value>,
    pub result: Value,
    /// For session.json: versions, device.
    pub facts: Map<String, Value>,
}

/// The script's way back into Rust.
#[pyclass(frozen)]
struct Native {
    metrics: PathBuf,
    progress: Mutex<Progress>,
    recorder: Arc<Recorder>,
}

#[pymethods]
impl Native {
    /// Where a step runs on another thread than Python's first, nobody else hears of Ctrl-C.
    fn progress(&self, py: Python<'_>, done: u64, total: u64, text: &str) -> PyResult<()> {
        py.detach(|| self.progress.lock().unwrap_or_else(PoisonError::into_inner).report(Update { done, total, text }));
        interrupt::check().map_err(crate::module::to_python)
    }

    fn metric(&self, line: &str) -> PyResult<()> {
        files::append_line(&self.metrics, line).and_then(|()| interrupt::check()).map_err(crate::module::to_python)
    }

    /// A model that only Python could find: `builtin:tiny`, a name on the hub.
    fn depends_on(&self, py: Python<'_>, name: &str, folder: PathBuf) -> PyResult<()> {
        py.detach(|| self.recorder.add(name, &folder)).map_err(crate::module::to_python)
    }

    fn publish_checkpoint(&self, py: Python<'_>, made: PathBuf, target: PathBuf) -> PyResult<()> {
        let publish = || {
            self.recorder.copy_to(&made)?;
            files::sync(&self.metrics)?;
            checkpoints::publish(&made, &target)
        };
        py.detach(publish).map_err(crate::module::to_python)
    }

    #[staticmethod]
    fn stream(py: Python<'_>, text: &str) {
        py.detach(|| progress::stream(text));
    }
}

static USER_SCRIPT: AtomicBool = AtomicBool::new(false);

/// Whether a script of the user's own has run, of which nobody knows what it leaves to the end of the process.
pub(crate) fn called_user_script() -> bool {
    USER_SCRIPT.load(Ordering::Relaxed)
}

pub(crate) fn call_script(call: &Call<'_>) -> Result<Answer> {
    USER_SCRIPT.fetch_or(call.user_script, Ordering::Relaxed);
    interpreter::start()?;
    let _signals = Handlers::keep();
    let offline = call.params.get("offline") == Some(&Value::Bool(true));
    let about = serde_json::json!({
        "id": call.session, "step": call.step, "folder": call.session_folder, "step_folder": call.step_folder,
        "script": call.script, "user_script": call.user_script, "from_text": call.door == Door::Cli, "offline": offline,
        "checkpoint": call.checkpoint, "own_interpreter": interpreter::started(),
    });
    let params = Value::Object(call.params.clone()).to_string();
    interrupt::check()?;
    let answer: String = Python::attach(|py| {
        let native = Native {
            metrics: call.step_folder.join("metrics.jsonl"),
            progress: Mutex::new(Progress::new(call.step)),
            recorder: Arc::clone(call.recorder),
        };
        let run = || py.import("pyrust_nn._runtime.host")?.call_method1("call", (native, about.to_string(), params))?.extract();
        run().map_err(|raised| from_python(py, raised))
    })?;
    serde_json::from_str(&answer).context("the script's answer does not have the form {outputs, metrics, params, result}")
}
