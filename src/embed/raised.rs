//! From a Python exception to an error of ours.

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use crate::error::{Error, Kind};
use crate::interrupt::interrupted;

/// The kind that the exceptions of `pyrust_nn` carry as `kind`.
pub(crate) fn is_ours(py: Python<'_>, raised: &PyErr) -> Option<Kind> {
    let class = crate::module::base_class(py);
    if !raised.is_instance(py, &class) {
        return None;
    }
    let kind: String = raised.value(py).getattr("kind").and_then(|kind| kind.extract()).ok()?;
    Kind::from_name(&kind)
}

/// Kind, message, causes and traceback of an exception.
pub(crate) fn from_python(py: Python<'_>, raised: PyErr) -> anyhow::Error {
    let kind =
        if raised.is_instance_of::<PyKeyboardInterrupt>(py) { Kind::Interrupted } else { is_ours(py, &raised).unwrap_or(Kind::Script) };
    let text = raised.value(py).str().map(|text| text.to_string()).unwrap_or_default();
    let message = match kind {
        Kind::Interrupted => interrupted().to_string(),
        Kind::Script => one_line(py, &raised),
        _ => text,
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
    Error { causes, traceback, ..Error::new(kind, message) }.into()
}

/// `Type: text`.
fn one_line(py: Python<'_>, raised: &PyErr) -> String {
    let name = raised.get_type(py).name().map(|name| name.to_string()).unwrap_or_default();
    let text = raised.value(py).str().map(|text| text.to_string()).unwrap_or_default();
    if text.is_empty() { name } else { format!("{name}: {text}") }
}

/// What was being handled when it was raised, unless `raise … from None`.
fn context(py: Python<'_>, raised: &PyErr) -> Option<PyErr> {
    let value = raised.value(py);
    if value.getattr("__suppress_context__").and_then(|flag| flag.extract::<bool>()).unwrap_or(true) {
        return None;
    }
    let context = value.getattr("__context__").ok()?;
    (!context.is_none()).then(|| PyErr::from_value(context))
}

fn traceback(py: Python<'_>, raised: &PyErr) -> Option<String> {
    let lines = py.import("traceback").and_then(|module| module.call_method1("format_exception", (raised.value(py),))).ok()?;
    Some(lines.extract::<Vec<String>>().ok()?.concat())
}
