//! Sessions as single files, from Python.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::python::convert::to_object;
use crate::python::exceptions::to_python;
use crate::session;

pub(super) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(export_session, module)?)?;
    module.add_function(wrap_pyfunction!(import_session, module)?)
}

fn check() -> anyhow::Result<()> {
    Python::attach(|py| py.check_signals().map_err(anyhow::Error::from))
}

/// Write a session into one file (`<session>.tar.zst` by default) with the hash of every file in it. Return session, path, bytes, files and
/// content_bytes.
#[pyfunction]
#[pyo3(signature = (session, path=None, *, runs_dir=None))]
fn export_session(py: Python<'_>, session: &str, path: Option<PathBuf>, runs_dir: Option<PathBuf>) -> PyResult<Py<PyAny>> {
    let runs = session::runs_dir(runs_dir.as_deref());
    let exported = py.detach(|| session::export_session(&runs, session, path.as_deref(), &check)).map_err(to_python)?;
    to_object(py, &serde_json::to_value(exported).map_err(|error| to_python(error.into()))?)
}

/// Read a session from an archive that `export_session` wrote, and check every file in it. Return its name, which is `session` if given.
#[pyfunction]
#[pyo3(signature = (path, session=None, *, runs_dir=None))]
fn import_session(py: Python<'_>, path: PathBuf, session: Option<&str>, runs_dir: Option<PathBuf>) -> PyResult<String> {
    let runs = session::runs_dir(runs_dir.as_deref());
    py.detach(|| session::import_session(&runs, &path, session, &check)).map_err(to_python)
}
