//! Python to Rust: the native module `pyrust_nn._core`. Its functions are listed at the end; the tasks' own are made from their rows.

mod tensors;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use ::log::Level;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyCFunction, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple, PyType};
use serde_json::{Map, Value};

use crate::dataset::{QUERIES, Query};
use crate::error::{self, Error, Kind};
use crate::generate::{Function, function_name};
use crate::params::{Door, MODEL};
use crate::run::{self, Outcome, Request};
use crate::session::runs_dir;
use crate::task::{TASKS, Task};
use crate::{cli, data, embedded, files, gguf, logging, pipeline, status};

/// Exception classes by kind. `interrupted` is Python's own KeyboardInterrupt.
const CLASSES: [(Kind, &str, &str); 8] = [
    (Kind::Usage, "UsageError", "A parameter or name is wrong."),
    (Kind::Input, "InputError", "The data are wrong."),
    (Kind::Model, "ModelError", "The model cannot be had or used."),
    (Kind::Setup, "SetupError", "Python or its packages are missing."),
    (Kind::Busy, "BusyError", "Another step holds the process or the session."),
    (Kind::Io, "StorageError", "A file cannot be read or written."),
    (Kind::Script, "ScriptError", "A script raised."),
    (Kind::Internal, "InternalError", "A fault of Pyrust-NN itself."),
];

static BASE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static BY_KIND: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// The class above all of ours.
pub(crate) fn base_class(py: Python<'_>) -> Bound<'_, PyType> {
    let made = BASE.get_or_init(py, || {
        let doc = "Any failure of Pyrust-NN. `kind` names its sort, `causes` what lay behind it, `summary` the step's summary or None.";
        let class = new_class(py, "PyrustNNError", doc, "internal", &[&py.get_type::<PyException>()]).and_then(|class| {
            class.setattr("summary", py.None())?;
            class.setattr("causes", PyTuple::empty(py))?;
            Ok(class)
        });
        class.expect("a class of a fixed name can be made").unbind()
    });
    made.bind(py).clone()
}

fn classes(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let made = BY_KIND.get_or_try_init(py, || {
        let all = PyDict::new(py);
        for (kind, name, doc) in CLASSES {
            let (base, value_error) = (base_class(py), py.get_type::<PyValueError>());
            let wrong_value = kind.exit_code() == 2;
            let bases: &[_] = if wrong_value { &[&base, &value_error] } else { &[&base] };
            all.set_item(kind.name(), new_class(py, name, doc, kind.name(), bases)?)?;
        }
        PyResult::Ok(all.unbind())
    })?;
    Ok(made.bind(py).clone())
}

/// `class <name>(<bases>): kind = <kind>`.
fn new_class<'py>(py: Python<'py>, name: &str, doc: &str, kind: &str, bases: &[&Bound<'py, PyType>]) -> PyResult<Bound<'py, PyType>> {
    let namespace = PyDict::new(py);
    namespace.set_item("__module__", "pyrust_nn")?;
    namespace.set_item("__doc__", doc)?;
    namespace.set_item("kind", kind)?;
    Ok(py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, namespace))?.cast_into()?)
}

/// The one map from errors to exceptions.
pub(crate) fn to_python(error: anyhow::Error) -> PyErr {
    // What a callback raised goes on as it is.
    let error = match error.downcast::<PyErr>() {
        Ok(raised) => return raised,
        Err(error) => error,
    };
    let error = Error::of(&error);
    if error.kind == Kind::Interrupted {
        return PyKeyboardInterrupt::new_err(error.message);
    }
    Python::attach(|py| {
        let made = classes(py).and_then(|classes| {
            let class = classes.get_item(error.kind.name())?.ok_or_else(|| PyTypeError::new_err("every kind has a class"))?;
            let causes: String = error.causes.iter().map(|cause| format!("\ncaused by: {cause}")).collect();
            let value = class.call1((format!("{}{causes}", error.message),))?;
            value.setattr("causes", PyTuple::new(py, &error.causes)?)?;
            Ok(value)
        });
        made.map_or_else(|raised| raised, PyErr::from_value)
    })
}

/// A step's summary as a dict, or its exception with the summary on it.
fn outcome(py: Python<'_>, outcome: Outcome) -> PyResult<Py<PyAny>> {
    let summary = to_object(py, &serde_json::to_value(&outcome.summary).map_err(|error| to_python(error.into()))?)?;
    match outcome.error {
        None => Ok(summary),
        Some(error) => {
            let raised = to_python(error);
            raised.value(py).setattr("summary", summary)?;
            Err(raised)
        }
    }
}

/// JSON as Python's own objects.
pub(crate) fn to_object(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    Ok(py.import("json")?.call_method1("loads", (value.to_string(),))?.unbind())
}

/// Python's own objects as JSON; paths as text.
fn to_value(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    if object.is_none() {
        Ok(Value::Null)
    } else if object.is_instance_of::<PyBool>() {
        Ok(Value::Bool(object.extract()?))
    } else if object.is_instance_of::<PyInt>() {
        // A number too large for any parameter stays visible as text, and is refused as such.
        Ok(object.extract::<i64>().map_or_else(|_| Value::String(object.to_string()), Value::from))
    } else if object.is_instance_of::<PyFloat>() {
        let number: f64 = object.extract()?;
        Ok(if number.is_finite() { number.into() } else { number.to_string().into() })
    } else if let Ok(text) = object.cast::<PyString>() {
        Ok(Value::String(text.extract()?))
    } else if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        object.try_iter()?.map(|item| to_value(&item?)).collect()
    } else if let Ok(mapping) = object.cast::<PyMapping>() {
        let mut map = Map::new();
        for pair in mapping.items()?.iter() {
            let (key, value): (String, Bound<'_, PyAny>) = pair.extract()?;
            map.insert(key, to_value(&value)?);
        }
        Ok(Value::Object(map))
    } else if object.hasattr("__fspath__")? {
        Ok(Value::String(object.call_method0("__fspath__")?.extract()?))
    } else {
        Err(PyTypeError::new_err(format!(
            "a {} cannot be a parameter; give numbers, texts, paths, lists or dicts",
            object.get_type().name()?
        )))
    }
}

/// A task as a Python function `(session, subject, *, parameters)`.
fn task_function<'py>(py: Python<'py>, task: &'static Task) -> PyResult<Bound<'py, PyCFunction>> {
    let function = Function::of_task(task);
    let (name, subject) = (function.name, function.subject.name);
    made_function(py, &function, move |py, args, keywords| {
        let mut given = arguments(name, &["session", subject], args, keywords)?;
        let session = match given.shift_remove("session") {
            None | Some(Value::Null) => None,
            Some(Value::String(session)) => Some(session),
            Some(other) => return Err(to_python(error::usage(format!("session must be a text or None, not {other}")))),
        };
        let request = Request::new(task, session, given, Door::Python);
        outcome(py, py.detach(|| run::step(request)))
    })
}

/// A question as a Python function `(model, *, parameters)`.
fn query_function<'py>(py: Python<'py>, query: &'static Query) -> PyResult<Bound<'py, PyCFunction>> {
    let function = Function::of_query(query);
    made_function(py, &function, move |py, args, keywords| {
        let given = arguments(query.function, &[MODEL.name], args, keywords)?;
        let mut tell = |_, _| Python::attach(|py| py.check_signals().map_err(anyhow::Error::from));
        to_object(py, &py.detach(|| (query.ask)(given, Door::Python, &mut tell)).map_err(to_python)?)
    })
}

/// `call` under the name and with the docstring of `function`.
fn made_function<'py>(
    py: Python<'py>,
    function: &Function,
    call: impl Fn(Python<'_>, &Bound<'_, PyTuple>, Option<&Bound<'_, PyDict>>) -> PyResult<Py<PyAny>> + Send + Sync + 'static,
) -> PyResult<Bound<'py, PyCFunction>> {
    let name: &'static std::ffi::CStr = Box::leak(CString::new(function.name)?.into_boxed_c_str());
    let doc: &'static std::ffi::CStr = Box::leak(CString::new(function.docstring())?.into_boxed_c_str());
    PyCFunction::new_closure(py, Some(name), Some(doc), move |args: &Bound<'_, PyTuple>, keywords: Option<&Bound<'_, PyDict>>| {
        cli::show_by_default();
        call(args.py(), args, keywords)
    })
}

/// Arguments by name; those of `positions` may come by position.
fn arguments(
    function: &str,
    positions: &[&str],
    args: &Bound<'_, PyTuple>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<Map<String, Value>> {
    if args.len() > positions.len() {
        return Err(PyTypeError::new_err(format!("{function}() takes {} by position, the rest by name", positions.join(" and "))));
    }
    let mut given = Map::new();
    for (position, value) in positions.iter().zip(args.iter()) {
        given.insert((*position).to_string(), to_value(&value)?);
    }
    for (key, value) in keywords.into_iter().flatten() {
        let key: String = key.extract()?;
        if given.insert(key.clone(), to_value(&value)?).is_some() {
            return Err(PyTypeError::new_err(format!("{function}() got {key} twice")));
        }
    }
    Ok(given)
}

#[pyfunction]
#[pyo3(name = "log")]
fn log_record(level: u32, origin: &str, text: &str) {
    let level = match level {
        0..20 => Level::Debug,
        20..30 => Level::Info,
        30..40 => Level::Warn,
        _ => Level::Error,
    };
    logging::emit(level, origin, text);
}

#[pyfunction]
fn publish_folder(py: Python<'_>, made: PathBuf, target: PathBuf) -> PyResult<()> {
    py.detach(|| files::publish_folder(&made, &target)).map_err(to_python)
}

#[pyfunction]
fn digest(py: Python<'_>, files: Vec<PathBuf>) -> PyResult<String> {
    py.detach(|| data::digest(&files)).map(|digest| format!("{digest:032x}")).map_err(to_python)
}

/// A text, its turns' places in bytes, and the message it is for.
type Rendered = (String, Vec<(usize, usize, usize)>, Option<usize>);

#[pyfunction]
fn render_chat(py: Python<'_>, folder: PathBuf, conversations: Vec<String>) -> PyResult<Vec<Py<PyAny>>> {
    let all = py.detach(|| data::render_chat(&folder, &conversations)).map_err(to_python)?;
    let each = all.into_iter().map(|rendered| match rendered {
        Err(why) => why.into_py_any(py),
        Ok(renderings) => {
            let plain = renderings.into_iter().map(|one| {
                let turns = one.turns.iter().map(|turn| (turn.prompt_end, turn.target_start, turn.target_end)).collect();
                (one.text, turns, one.message)
            });
            plain.collect::<Vec<Rendered>>().into_py_any(py)
        }
    });
    each.collect()
}

#[pyfunction]
fn tokenizer_head(py: Python<'_>, path: PathBuf) -> PyResult<Py<PyAny>> {
    let head = py.detach(|| data::tokenizer_head(&path)).map_err(to_python)?;
    to_object(py, &serde_json::to_value(head).map_err(|error| to_python(error.into()))?)
}

#[pyfunction]
fn tokenize(py: Python<'_>, folder: PathBuf, texts: Vec<String>) -> PyResult<(bool, Vec<Vec<u32>>)> {
    py.detach(|| data::tokenize(&folder, &texts)).map_err(to_python)
}

#[pyfunction]
fn tokenize_by_library(py: Python<'_>, folder: PathBuf, texts: Vec<String>) -> PyResult<Vec<Vec<u32>>> {
    py.detach(|| data::tokenize_by_library(&folder, &texts)).map_err(to_python)
}

#[pyfunction]
fn embedded_text(path: &str) -> PyResult<&'static str> {
    embedded::text(path).ok_or_else(|| to_python(error::input(format!("nothing of the name {path} is embedded"))))
}

/// Where everything is kept that can be made again.
#[pyfunction]
fn cache_folder() -> PathBuf {
    data::cache_folder()
}

#[pyfunction]
fn write_gguf(py: Python<'_>, plan_path: PathBuf, progress: Py<PyAny>) -> PyResult<u64> {
    let mut tell = |done: u64, total: u64, name: &str| {
        Python::attach(|py| {
            py.check_signals()?;
            progress.call1(py, (done, total, name)).map(drop)
        })
        .map_err(anyhow::Error::from)
    };
    py.detach(|| gguf::write(&plan_path, &mut tell)).map_err(to_python)
}

#[pyfunction]
#[pyo3(signature = (session, lines=None, *, runs_dir=None))]
fn get_status(py: Python<'_>, session: &str, lines: Option<usize>, runs_dir: Option<PathBuf>) -> PyResult<String> {
    py.detach(|| status::read_log(&self::runs_dir(runs_dir.as_deref()), session, lines)).map_err(to_python)
}

#[pyfunction]
#[pyo3(signature = (*, runs_dir=None))]
fn list_sessions(py: Python<'_>, runs_dir: Option<PathBuf>) -> PyResult<Py<PyAny>> {
    let sessions = py.detach(|| status::list_sessions(runs_dir.as_deref())).map_err(to_python)?;
    to_object(py, &serde_json::to_value(sessions).map_err(|error| to_python(error.into()))?)
}

#[pyfunction]
#[pyo3(signature = (path=None, *, session=None, **overrides))]
fn run_pipeline(
    py: Python<'_>,
    path: Option<PathBuf>,
    session: Option<String>,
    overrides: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    let overrides = match overrides.map(|dict| to_value(dict.as_any())).transpose()? {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    cli::show_by_default();
    let path = path.unwrap_or_else(|| Path::new(pipeline::FILE).to_path_buf());
    let results = py.detach(|| {
        let plan = pipeline::Pipeline::read(&path)?.with(overrides, session, Door::Python)?;
        plan.run(|_| {})
    });
    summaries(py, results.map_err(to_python)?)
}

#[pyfunction]
#[pyo3(signature = (session, step=None, *, runs_dir=None))]
fn resume(py: Python<'_>, session: &str, step: Option<&str>, runs_dir: Option<PathBuf>) -> PyResult<Py<PyAny>> {
    cli::show_by_default();
    let results = py.detach(|| crate::resume::plan(runs_dir.as_deref(), session, step, Door::Python)?.run(|_| {}));
    summaries(py, results.map_err(to_python)?)
}

/// The summaries of steps that ran in order, or the exception of the one that failed.
fn summaries(py: Python<'_>, outcomes: Vec<Outcome>) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for one in outcomes {
        list.append(outcome(py, one)?)?;
    }
    Ok(list.into_any().unbind())
}

#[pyfunction]
#[pyo3(signature = (argv=None))]
fn main(py: Python<'_>, argv: Option<Vec<String>>) -> PyResult<i32> {
    let argv = match argv {
        Some(argv) => std::iter::once("pyrust-nn".to_string()).chain(argv).collect(),
        None => py.import("sys")?.getattr("argv")?.extract()?,
    };
    Ok(i32::from(py.detach(|| cli::main(argv))))
}

#[pyfunction]
fn set_console(on: bool) {
    cli::set_console(on);
}

#[pymodule]
pub(crate) fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("EMBEDDED", crate::embed::started())?;
    module.add("PyrustNNError", base_class(py))?;
    for (kind, name, _) in CLASSES {
        module.add(name, classes(py)?.get_item(kind.name())?)?;
    }
    for task in &TASKS {
        module.add(function_name(task), task_function(py, task)?)?;
    }
    for query in &QUERIES {
        module.add(query.function, query_function(py, query)?)?;
    }
    module.add_function(wrap_pyfunction!(run_pipeline, module)?)?;
    module.add_function(wrap_pyfunction!(resume, module)?)?;
    module.add_function(wrap_pyfunction!(get_status, module)?)?;
    module.add_function(wrap_pyfunction!(list_sessions, module)?)?;
    module.add_function(wrap_pyfunction!(set_console, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    // For the package's own scripts:
    module.add_function(wrap_pyfunction!(log_record, module)?)?;
    module.add_function(wrap_pyfunction!(publish_folder, module)?)?;
    module.add_function(wrap_pyfunction!(digest, module)?)?;
    module.add_function(wrap_pyfunction!(embedded_text, module)?)?;
    module.add_function(wrap_pyfunction!(cache_folder, module)?)?;
    // For the tests:
    module.add_function(wrap_pyfunction!(render_chat, module)?)?;
    module.add_function(wrap_pyfunction!(tokenize, module)?)?;
    module.add_function(wrap_pyfunction!(tokenize_by_library, module)?)?;
    module.add_function(wrap_pyfunction!(tokenizer_head, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::softmax_pass, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::softmax_pass_usable, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::attention, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::attention_backward, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::attention_usable, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::swiglu, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::swiglu_backward, module)?)?;
    module.add_function(wrap_pyfunction!(tensors::kernels_usable, module)?)?;
    module.add_function(wrap_pyfunction!(write_gguf, module)?)?;
    Ok(())
}
