//! Calls `run(params, session)` of a script and reads its answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base::signals;
use crate::base::signals::Handlers;
use crate::base::terminal::Capture;
use crate::python::convert::{to_object, to_value};
use crate::python::exceptions::{from_python, to_python};
use crate::python::interpreter;
use crate::python::script_host::ScriptHost;

/// A script and its arguments.
#[derive(Clone)]
pub(crate) struct ScriptCall<'a> {
    pub session: &'a str,
    pub step: &'a str,
    pub session_folder: &'a Path,
    pub step_folder: &'a Path,
    pub script: &'a Path,
    /// Whether parameters of a user's script are strings from the command line.
    pub from_text: bool,
    /// Whether it is a user's own script, whose PARAMS are checked.
    pub user_script: bool,
    pub params: &'a Map<String, Value>,
    pub host: Arc<dyn ScriptHost>,
    /// The checkpoint from which training resumes.
    pub checkpoint: Option<&'a Path>,
}

/// The answer of a script.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    pub outputs: Map<String, Value>,
    pub metrics: Map<String, Value>,
    /// Parameters resolved by the script.
    pub params: Map<String, Value>,
    pub result: Value,
    /// The summary's `proof`.
    pub proof: Value,
    /// Why the proof failed: the step fails with this message, and the rest of the answer is kept.
    pub unproven: Option<String>,
    /// What JSON could not hold: the step fails with this message, and the rest of the answer is kept.
    pub fault: Option<String>,
    /// The folders that models of the hub were loaded from, by the parameter that names them.
    pub sources: Map<String, Value>,
}

/// The host as a Python object, called by the script's `session`.
#[pyclass(frozen)]
struct NativeHost(Arc<dyn ScriptHost>);

#[pymethods]
impl NativeHost {
    fn progress(&self, py: Python<'_>, done: u64, total: u64, text: &str) -> PyResult<()> {
        py.detach(|| self.0.progress(done, total, text)).map_err(to_python)
    }

    fn environment(&self, facts: &str) {
        self.0.environment(serde_json::from_str(facts).unwrap_or_default());
    }

    fn metric(&self, line: &str) -> PyResult<()> {
        self.0.metric(line).map_err(to_python)
    }

    fn depends_on(&self, py: Python<'_>, name: &str, folder: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.depends_on(name, &folder)).map_err(to_python)
    }

    #[pyo3(signature = (name, script=None))]
    fn dataset(&self, py: Python<'_>, name: &str, script: Option<&Bound<'_, PyDict>>) -> PyResult<Py<PyAny>> {
        let mut params = script.map(|_| Map::new());
        for (key, value) in script.into_iter().flatten() {
            // A value that JSON cannot represent is not a parameter of a data set.
            if let (Ok(key), Ok(value), Some(params)) = (key.extract::<String>(), to_value(&value), &mut params) {
                params.insert(key, value);
            }
        }
        to_object(py, &py.detach(|| self.0.dataset(name, params.as_ref())).map_err(to_python)?)
    }

    fn publish_checkpoint(&self, py: Python<'_>, made: PathBuf, target: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.publish_checkpoint(&made, &target)).map_err(to_python)
    }

    fn worker_lost(&self) {
        self.0.worker_lost();
    }

    fn stream(&self, py: Python<'_>, text: &str) {
        py.detach(|| self.0.stream(text));
    }
}

static USER_SCRIPT: AtomicBool = AtomicBool::new(false);

/// Whether a user's own script has run. It may have left threads or exit handlers.
pub(crate) fn called_user_script() -> bool {
    USER_SCRIPT.load(Ordering::Relaxed)
}

/// Refuses `given` parameters (null: none) that the text of a user's script rules out. Starts Python if needed, in an environment that
/// exists, but does not execute the script.
///
/// # Errors
/// Kind `usage` for a wrong parameter, `setup` if Python cannot start.
pub(crate) fn check_script_params(script: &Path, given: &Value, from_text: bool) -> Result<()> {
    interpreter::start_existing()?;
    Python::attach(|py| {
        let module = || py.import("pyrust_nn._runtime.script_params");
        let check = || module()?.call_method1("refuse_wrong_params", (script, given.to_string(), from_text));
        check().map(drop).map_err(|raised| from_python(py, raised))
    })
}

/// Starts Python if needed and calls the script.
///
/// # Errors
/// Kind `setup` if Python cannot start, otherwise the error of the script.
pub(crate) fn call_script(call: &ScriptCall<'_>) -> Result<Answer> {
    USER_SCRIPT.fetch_or(call.user_script, Ordering::Relaxed);
    interpreter::start()?;
    let _signals = Handlers::keep();
    let offline = call.params.get("offline") == Some(&Value::Bool(true));
    let about = serde_json::json!({
        "id": call.session, "step": call.step, "folder": call.session_folder, "step_folder": call.step_folder,
        "script": call.script, "user_script": call.user_script, "from_text": call.from_text, "offline": offline,
        "checkpoint": call.checkpoint, "own_interpreter": interpreter::started(),
    });
    let params = Value::Object(call.params.clone()).to_string();
    signals::check()?;
    let capture = Capture::begin();
    let answer: Result<String> = Python::attach(|py| {
        let native = NativeHost(Arc::clone(&call.host));
        let run = || py.import("pyrust_nn._runtime.host")?.call_method1("call", (native, about.to_string(), params))?.extract();
        run().map_err(|raised| from_python(py, raised))
    });
    drop(capture);
    serde_json::from_str(&answer?).context("the script's answer does not have the form {outputs, metrics, params, result}")
}
