//! Functions of Python that are made from definitions: their arguments, and the console that they show.

use std::ffi::CString;

use log::LevelFilter;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use serde_json::{Map, Value};

use crate::base::progress;
use crate::cli;
use crate::native::notebook;
use crate::python::convert::to_value;
use crate::reference::Function;
use crate::session::ProcessGuard;

/// Shows the console unless the program decided otherwise. A script of a step must not turn it on for its host, which may be a Rust program.
pub(crate) fn show_console(py: Python<'_>) -> PyResult<()> {
    if crate::python::started() || ProcessGuard::is_held() {
        return Ok(());
    }
    if cli::first_use() {
        show(py, true, LevelFilter::Warn)
    } else {
        // What an earlier call that failed has shown is complete.
        py.detach(progress::end);
        Ok(())
    }
}

/// Turns the console on or off. `level`: of the log lines in a notebook.
pub(crate) fn show(py: Python<'_>, on: bool, level: LevelFilter) -> PyResult<()> {
    if on && notebook::is_notebook(py)? {
        return notebook::show(py, level);
    }
    py.detach(|| cli::set_console(on));
    Ok(())
}

/// `call` as a Python function with the name and docstring of `function`.
pub(crate) fn python_function<'py>(
    py: Python<'py>,
    function: &Function,
    call: impl Fn(Python<'_>, &Bound<'_, PyTuple>, Option<&Bound<'_, PyDict>>) -> PyResult<Py<PyAny>> + Send + Sync + 'static,
) -> PyResult<Bound<'py, PyCFunction>> {
    let name: &'static std::ffi::CStr = Box::leak(CString::new(function.name)?.into_boxed_c_str());
    let doc: &'static std::ffi::CStr = Box::leak(CString::new(function.docstring())?.into_boxed_c_str());
    PyCFunction::new_closure(py, Some(name), Some(doc), move |args: &Bound<'_, PyTuple>, keywords: Option<&Bound<'_, PyDict>>| {
        show_console(args.py())?;
        call(args.py(), args, keywords)
    })
}

/// Arguments by name. Those in `positions` can be given by position.
pub(crate) fn arguments(
    function: &str,
    positions: &[&str],
    args: &Bound<'_, PyTuple>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<Map<String, Value>> {
    if args.len() > positions.len() {
        let taken = if positions.is_empty() { "nothing".into() } else { positions.join(" and ") };
        return Err(PyTypeError::new_err(format!("{function}() takes {taken} by position, the others by name")));
    }
    let mut given = Map::new();
    for (position, value) in positions.iter().zip(args.iter()) {
        given.insert((*position).to_string(), argument(function, position, &value)?);
    }
    for (key, value) in keywords.into_iter().flatten() {
        let key: String = key.extract()?;
        if given.insert(key.clone(), argument(function, &key, &value)?).is_some() {
            return Err(PyTypeError::new_err(format!("{function}() got {key} twice")));
        }
    }
    Ok(given)
}

fn argument(function: &str, name: &str, value: &Bound<'_, PyAny>) -> PyResult<Value> {
    to_value(value).map_err(|raised| PyTypeError::new_err(format!("{function}() got {name}: {}", raised.value(value.py()))))
}
