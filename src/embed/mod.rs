//! Rust to Python: the interpreter, its streams and signals, and the call of a script.

mod interpreter;
mod probe;
mod raised;
mod script;
mod transformers;

use anyhow::Result;
pub use pyo3;
use pyo3::prelude::*;

pub use interpreter::{Python3, use_environment};
pub(crate) use interpreter::{finish, host_prefix, hosted_by_python, started};
pub(crate) use probe::{Probe, time_rows};
pub(crate) use raised::from_python;
pub(crate) use script::{Call, call_script, called_user_script};
pub(crate) use transformers::{PythonTransformers, json_lines, tokenizer_folder};

use crate::interrupt::Handlers;
use crate::logging;
use crate::session::{Running, Session, runs_dir};

/// Notes Ctrl-C and SIGTERM while what it gives lives; nothing where Python is the host, which has handlers of its own.
pub(crate) fn note_signals() -> Option<Handlers> {
    (!hosted_by_python()).then(Handlers::note_signals)
}

/// Runs a step of a crate's own with Python: the session is open and locked, Python's logging and streams go to its log, Ctrl-C
/// raises `KeyboardInterrupt`; all of it is given back afterwards.
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
/// The closure's own, or kind `busy` (session or process in use) or `setup` (no Python environment).
pub fn with_python_env<T>(session: &str, work: impl FnOnce(Python<'_>) -> Result<T>) -> Result<T> {
    let _one_at_a_time = Running::begin(session, "with_python_env")?;
    let session = Session::open(&runs_dir(None), session)?;
    let _log = logging::attach(&session.log_path())?;
    interpreter::start()?;
    let _signals = Handlers::keep();
    Python::attach(|py| {
        let bridge = py
            .import("pyrust_nn._runtime.host")
            .and_then(|host| host.call_method0("open_bridge"))
            .map_err(|raised| from_python(py, raised))?;
        let result = work(py);
        bridge.call_method0("close").map_err(|raised| from_python(py, raised))?;
        result.map_err(|error| match error.downcast::<PyErr>() {
            Ok(raised) => from_python(py, raised),
            Err(error) => error,
        })
    })
}
