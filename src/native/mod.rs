//! Python calls Rust: the native module `pyrust_nn._core` and its public functions. Those of the tasks are made from their parameter tables.

mod archives;
mod board;
mod functions;
mod gguf_files;
mod internal;
mod metrics;
mod notebook;
mod server;
mod tensors;

use std::path::{Path, PathBuf};

use log::LevelFilter;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyList};
use serde_json::{Map, Value};

use crate::base::cache::CacheContent;
use crate::base::{cache, error};
use crate::native::board::{PyBoard, board_function};
use crate::native::functions::{arguments, python_function, show, show_console};
use crate::native::server::{PyServer, serve_function};
use crate::params::command::DatasetCommand;
use crate::params::interface::Interface;
use crate::params::param::MODEL;
use crate::params::task::Task;
use crate::python::convert::{to_object, to_value};
use crate::python::exceptions;
use crate::python::exceptions::to_python;
use crate::reference::Function;
use crate::session;
use crate::session::names::runs_dir;
use crate::step::request::{Request, StepOutcome};
use crate::step::run_step;
use crate::tasks::{DATASET_COMMANDS, TASKS};
use crate::{cli, pipeline};

/// A step's summary as a dict, or its exception with the summary on it.
fn outcome(py: Python<'_>, outcome: StepOutcome) -> PyResult<Py<PyAny>> {
    let summary = to_object(py, &serde_json::to_value(&outcome.summary).map_err(|error| to_python(error.into()))?)?;
    let summary = shown(py, "ShownSummary", summary)?;
    match outcome.error {
        None => Ok(summary),
        Some(error) => {
            let raised = to_python(error);
            raised.value(py).setattr("summary", summary)?;
            Err(raised)
        }
    }
}

/// A dict or list as the class of the package that a notebook shows as HTML.
fn shown(py: Python<'_>, class: &str, plain: Py<PyAny>) -> PyResult<Py<PyAny>> {
    Ok(py.import("pyrust_nn.shown")?.call_method1(class, (plain,))?.unbind())
}

/// A task as a Python function `(session, input, *, parameters)`.
fn task_function<'py>(py: Python<'py>, task: &'static Task) -> PyResult<Bound<'py, PyCFunction>> {
    let function = Function::of_task(task);
    let (name, input) = (function.name, task.input.name);
    python_function(py, &function, move |py, args, keywords| {
        let mut given = arguments(name, &["session", input], args, keywords)?;
        let session = match given.shift_remove("session") {
            None | Some(Value::Null) => None,
            Some(Value::String(session)) => Some(session),
            Some(other) => return Err(to_python(error::usage(format!("session must be a string or None, not {other}")))),
        };
        let request = Request::new(task, session, given, Interface::Python);
        outcome(py, py.detach(|| run_step(request)))
    })
}

/// A data set command as a Python function `(model, *, parameters)`.
fn command_function<'py>(py: Python<'py>, command: &'static DatasetCommand) -> PyResult<Bound<'py, PyCFunction>> {
    let function = Function::of_command(command);
    python_function(py, &function, move |py, args, keywords| {
        let given = arguments(command.function, &[MODEL.name], args, keywords)?;
        let mut on_progress = |_, _| Python::attach(|py| py.check_signals().map_err(anyhow::Error::from));
        to_object(py, &py.detach(|| (command.run)(given, Interface::Python, &mut on_progress)).map_err(to_python)?)
    })
}

/// Return a session's log or its last lines. Can be called while a step runs in another thread.
#[pyfunction]
#[pyo3(signature = (session, lines=None, *, runs_dir=None))]
fn get_status(py: Python<'_>, session: &str, lines: Option<usize>, runs_dir: Option<PathBuf>) -> PyResult<String> {
    py.detach(|| session::read_log(&self::runs_dir(runs_dir.as_deref()), session, lines)).map_err(to_python)
}

/// Return every session, oldest first: session, created, state, size_bytes and steps. Of each step: step, task, state, started_at,
/// finished_at, duration_s, model, loss, eta_seconds and error.
#[pyfunction]
#[pyo3(signature = (*, runs_dir=None))]
fn list_sessions(py: Python<'_>, runs_dir: Option<PathBuf>) -> PyResult<Py<PyAny>> {
    let sessions = py.detach(|| session::list_sessions(runs_dir.as_deref())).map_err(to_python)?;
    to_object(py, &serde_json::to_value(sessions).map_err(|error| to_python(error.into()))?)
}

/// Return the content of the cache: folder, bytes, max_bytes, and entries with name, kind, bytes, used_at and in_use.
#[pyfunction]
fn list_cache(py: Python<'_>) -> PyResult<Py<PyAny>> {
    cache_content(py, cache::list_cache)
}

/// Remove everything from the cache that no process uses, and return what remains.
#[pyfunction]
fn clear_cache(py: Python<'_>) -> PyResult<Py<PyAny>> {
    cache_content(py, cache::clear_cache)
}

fn cache_content(py: Python<'_>, read: fn() -> anyhow::Result<CacheContent>) -> PyResult<Py<PyAny>> {
    let content = py.detach(read).map_err(to_python)?;
    to_object(py, &serde_json::to_value(content).map_err(|error| to_python(error.into()))?)
}

/// Run a pipeline file (pipeline.toml by default); `overrides` are its top-level keys, such as model.
#[pyfunction]
#[pyo3(signature = (path=None, *, session=None, **overrides))]
fn run_pipeline(
    py: Python<'_>,
    path: Option<PathBuf>,
    session: Option<String>,
    overrides: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    let overrides = object(overrides)?;
    show_console(py)?;
    let path = path.unwrap_or_else(|| Path::new(pipeline::FILE).to_path_buf());
    let results = py.detach(|| {
        let plan = pipeline::open(&path, overrides, session, Interface::Python)?;
        plan.run(|_| {}, |_| {})
    });
    summaries(py, results.map_err(to_python)?)
}

/// Resume an interrupted session: a fine-tuning from its last complete checkpoint, then the rest of the pipeline.
#[pyfunction]
#[pyo3(signature = (session, step=None, *, nproc_per_node=None, max_restarts=None, secrets=None, runs_dir=None))]
fn resume(
    py: Python<'_>,
    session: &str,
    step: Option<&str>,
    nproc_per_node: Option<&Bound<'_, PyAny>>,
    max_restarts: Option<u32>,
    secrets: Option<&Bound<'_, PyDict>>,
    runs_dir: Option<PathBuf>,
) -> PyResult<Py<PyAny>> {
    let secrets = object(secrets)?;
    show_console(py)?;
    let mut processes = Map::new();
    processes.insert("nproc_per_node".into(), nproc_per_node.map(to_value).transpose()?.unwrap_or_default());
    processes.insert("max_restarts".into(), max_restarts.into());
    let planned = || pipeline::remaining(runs_dir.as_deref(), session, step, &secrets, &processes, Interface::Python);
    let results = py.detach(|| planned()?.run(|_| {}, |_| {}));
    summaries(py, results.map_err(to_python)?)
}

/// Run the steps of a session again in a new one (SESSION-again by default), and compare what they made. Return session, reproduced_as, same, steps and
/// likely_cause.
#[pyfunction]
#[pyo3(signature = (session, into=None, *, secrets=None, runs_dir=None))]
fn reproduce(
    py: Python<'_>,
    session: &str,
    into: Option<&str>,
    secrets: Option<&Bound<'_, PyDict>>,
    runs_dir: Option<PathBuf>,
) -> PyResult<Py<PyAny>> {
    let secrets = object(secrets)?;
    show_console(py)?;
    let runs = runs_dir.as_deref();
    let planned = py.detach(|| {
        let plan = pipeline::reproduction(runs, session, into, &secrets, Interface::Python)?;
        let copy = plan.session.clone();
        plan.run(|_| {}, |_| {}).map(|outcomes| (copy, outcomes))
    });
    let (copy, outcomes) = planned.map_err(to_python)?;
    outcomes.into_iter().try_for_each(|one| outcome(py, one).map(drop))?;
    let compared = py.detach(|| pipeline::check(&self::runs_dir(runs), session, &copy)).map_err(to_python)?;
    to_object(py, &serde_json::to_value(compared).map_err(|error| to_python(error.into()))?)
}

/// A dict as JSON; none is an empty one.
fn object(dict: Option<&Bound<'_, PyDict>>) -> PyResult<Map<String, Value>> {
    match dict.map(|dict| to_value(dict.as_any())).transpose()? {
        Some(Value::Object(map)) => Ok(map),
        _ => Ok(Map::new()),
    }
}

/// The summaries of the steps in order, or the exception of the step that failed.
fn summaries(py: Python<'_>, outcomes: Vec<StepOutcome>) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for one in outcomes {
        list.append(outcome(py, one)?)?;
    }
    shown(py, "ShownSummaries", list.into_any().unbind())
}

/// Run the command line and return the exit code.
#[pyfunction]
#[pyo3(signature = (argv=None))]
fn main(py: Python<'_>, argv: Option<Vec<String>>) -> PyResult<i32> {
    let argv = match argv {
        Some(argv) => std::iter::once("pyrust-nn".to_string()).chain(argv).collect(),
        None => py.import("sys")?.getattr("argv")?.extract()?,
    };
    Ok(i32::from(py.detach(|| cli::run_command_line(argv))))
}

/// Turn log lines and progress on stderr on (the default) or off.
#[pyfunction]
fn set_console(py: Python<'_>, on: bool) -> PyResult<()> {
    cli::first_use();
    show(py, on, LevelFilter::Info)
}

/// Let steps capture descriptors 1 and 2 (off by default, except in the command line): what child processes, C's `printf` and `os.write(1, ...)`
/// write while a step runs becomes records of its log.
#[pyfunction]
fn capture_output(on: bool) {
    cli::capture_output(on);
}

#[pymodule]
pub(crate) fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    exceptions::add_to(module)?;
    for task in TASKS {
        module.add(task.function, task_function(py, task)?)?;
    }
    for command in DATASET_COMMANDS {
        module.add(command.function, command_function(py, command)?)?;
    }
    module.add("serve", serve_function(py)?)?;
    module.add_class::<PyServer>()?;
    module.add("board", board_function(py)?)?;
    module.add_class::<PyBoard>()?;
    module.add_function(wrap_pyfunction!(run_pipeline, module)?)?;
    module.add_function(wrap_pyfunction!(resume, module)?)?;
    module.add_function(wrap_pyfunction!(reproduce, module)?)?;
    module.add_function(wrap_pyfunction!(get_status, module)?)?;
    module.add_function(wrap_pyfunction!(list_sessions, module)?)?;
    module.add_class::<metrics::Metrics>()?;
    module.add_function(wrap_pyfunction!(metrics::metrics, module)?)?;
    archives::add_to(module)?;
    module.add_function(wrap_pyfunction!(list_cache, module)?)?;
    module.add_function(wrap_pyfunction!(clear_cache, module)?)?;
    module.add_function(wrap_pyfunction!(set_console, module)?)?;
    module.add_function(wrap_pyfunction!(capture_output, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    let public = module.index()?.as_sequence().to_list()?;
    module.add("EMBEDDED", crate::python::started())?;
    module.add("EXHAUSTED", crate::base::files::EXHAUSTED)?;
    module.add("LAUNCHED", crate::python::LAUNCHED)?;
    internal::add_to(module)?;
    gguf_files::add_to(module)?;
    tensors::add_to(module)?;
    // The public names, imported by `from pyrust_nn._core import *`.
    module.setattr("__all__", public)
}
