//! Converts errors to Python exceptions and back, and defines the exception classes of the package.
//!
//! PyO3's own conversion from `anyhow` gives a `RuntimeError` with debug text. So `to_python` is the only conversion in use.

use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::base::error::{Error, Kind};
use crate::base::files::EXHAUSTED;
use crate::base::signals;

/// Exception classes by kind. `interrupted` is Python's own KeyboardInterrupt.
const CLASSES: [(Kind, &str, &str); 9] = [
    (Kind::Usage, "UsageError", "A parameter or name is wrong."),
    (Kind::Input, "InputError", "The data is wrong."),
    (Kind::Model, "ModelError", "The model is not available or not usable."),
    (Kind::Setup, "SetupError", "Python or its packages are missing."),
    (Kind::Busy, "BusyError", "Another step holds the process or the session."),
    (Kind::Io, "StorageError", "A file cannot be read or written."),
    (Kind::Script, "ScriptError", "A script raised an exception."),
    (Kind::Proof, "ProofError", "A file is not the model that it was made from."),
    (Kind::Internal, "InternalError", "A bug in Pyrust-NN."),
];

static BASE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static BY_KIND: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// `PyrustNNError`, the base class of the package's exceptions.
pub(crate) fn base_class(py: Python<'_>) -> Bound<'_, PyType> {
    let made = BASE.get_or_init(py, || {
        let doc =
            "Base class of all errors of Pyrust-NN. `kind` is the error kind, `causes` the causes, `summary` the step's summary or None.";
        let class = new_class(py, "PyrustNNError", doc, "internal", &[&py.get_type::<PyException>()]).and_then(|class| {
            class.setattr("summary", py.None())?;
            class.setattr("causes", PyTuple::empty(py))?;
            Ok(class)
        });
        class.expect("a class with a fixed name can be created").unbind()
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

/// Converts an error to a Python exception.
pub(crate) fn to_python(error: anyhow::Error) -> PyErr {
    // An exception of a callback is raised unchanged.
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

/// The kind of an exception of `pyrust_nn`. `None` for other exceptions.
pub(crate) fn own_kind(py: Python<'_>, raised: &PyErr) -> Option<Kind> {
    let class = base_class(py);
    if !raised.is_instance(py, &class) {
        return None;
    }
    let kind: String = raised.value(py).getattr("kind").and_then(|kind| kind.extract()).ok()?;
    Kind::from_name(&kind)
}

/// The end of the path of the file that calls scripts.
const CALLS_SCRIPTS: &str = "_runtime/host.py";

/// Converts a Python exception to an error with kind, message, causes and traceback.
pub(crate) fn from_python(py: Python<'_>, raised: PyErr) -> anyhow::Error {
    let text = raised.value(py).str().map(|text| text.to_string()).unwrap_or_default();
    let error = match own_kind(py, &raised) {
        _ if raised.is_instance_of::<PyKeyboardInterrupt>(py) => signals::interrupted(signals::number(&text)),
        Some(kind) => Error::new(kind, text),
        None => Error::new(if storage_exhausted(py, &raised) { Kind::Io } else { Kind::Script }, one_line(py, &raised)),
    };
    let mut causes = Vec::new();
    let mut link = raised.clone_ref(py);
    while let Some(next) = link.cause(py).or_else(|| context(py, &link)) {
        causes.push(one_line(py, &next));
        link = next;
        if causes.len() == 16 {
            break;
        }
    }
    let traceback = traceback(py, &raised);
    Error { causes, traceback, ..error }.into()
}

/// Whether the disk, the quota or the limit of a file's size was exhausted. That is no fault of the script.
fn storage_exhausted(py: Python<'_>, raised: &PyErr) -> bool {
    raised.is_instance_of::<PyOSError>(py)
        && raised.value(py).getattr("errno").and_then(|errno| errno.extract()).is_ok_and(|errno: i32| EXHAUSTED.contains(&errno))
}

/// `Type: text`.
fn one_line(py: Python<'_>, raised: &PyErr) -> String {
    let name = raised.get_type(py).name().map(|name| name.to_string()).unwrap_or_default();
    let text = raised.value(py).str().map(|text| text.to_string()).unwrap_or_default();
    if text.is_empty() { name } else { format!("{name}: {text}") }
}

/// The exception that was being handled, unless it was raised with `from None`.
fn context(py: Python<'_>, raised: &PyErr) -> Option<PyErr> {
    let value = raised.value(py);
    if value.getattr("__suppress_context__").and_then(|flag| flag.extract::<bool>()).unwrap_or(true) {
        return None;
    }
    let context = value.getattr("__context__").ok()?;
    (!context.is_none()).then(|| PyErr::from_value(context))
}

/// The traceback, from the script on: above it are the lines of ours that call every script.
fn traceback(py: Python<'_>, raised: &PyErr) -> Option<String> {
    let mut frames = raised.traceback(py).map(Bound::into_any);
    while let Some(frame) = &frames
        && let Ok(file) = frame.getattr("tb_frame").and_then(|of| of.getattr("f_code")?.getattr("co_filename")?.extract::<String>())
        && file.ends_with(CALLS_SCRIPTS)
        && let Ok(next) = frame.getattr("tb_next")
        && !next.is_none()
    {
        frames = Some(next);
    }
    let format = py.import("traceback").and_then(|module| module.getattr("format_exception")).ok()?;
    let lines = format.call1((raised.get_type(py), raised.value(py), frames)).ok()?;
    Some(lines.extract::<Vec<String>>().ok()?.concat())
}

/// Adds the exception classes to the module.
pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("PyrustNNError", base_class(py))?;
    for (kind, name, _) in CLASSES {
        module.add(name, classes(py)?.get_item(kind.name())?)?;
    }
    Ok(())
}
