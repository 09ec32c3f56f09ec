//! Functions of the Python package that Rust calls for a data set: what only Python can find, make or read.

use std::path::{Path, PathBuf};

use anyhow::Result;
use pyo3::prelude::*;

use crate::base::cache;
use crate::python::exceptions::from_python;
use crate::python::interpreter;

/// The folder of a model. Generates or downloads the model if needed.
pub(crate) fn model_folder(model: &str, offline: bool) -> Result<PathBuf> {
    call("models.model_folder", "resolved_folder", (model, offline))
}

/// The base model of an adapter: a folder, `builtin:tiny` or a Hub name.
pub(crate) fn adapter_base(adapter: &Path) -> Result<String> {
    call("models.adapter_folder", "adapter_base", (adapter,))
}

/// Converts Parquet, Arrow or a folder of the `datasets` library to a JSON lines file in the cache. Returns its path, and the
/// columns that were not read because they are not in `columns`.
pub(crate) fn json_lines(path: &Path, split: Option<&str>, columns: &[&str]) -> Result<(PathBuf, Vec<String>)> {
    loop {
        let (lines, unread): (PathBuf, Vec<String>) = call("hf_datasets", "json_lines", (path, split, columns.to_vec()))?;
        // Another process may have removed it at once, because the cache was too large.
        if cache::hold(&lines) {
            return Ok((lines, unread));
        }
    }
}

/// Downloads a data set of the hub by name, as a folder in the cache that [`json_lines`] reads. `options`: name, split, revision.
pub(crate) fn hub_dataset(path: &str, options: [Option<&str>; 3]) -> Result<PathBuf> {
    let [name, split, revision] = options;
    call("hf_datasets", "hub_dataset", (path, name, split, revision))
}

/// The commit of a data set of the hub at a branch, tag or commit, or at its newest.
pub(crate) fn hub_revision(path: &str, revision: Option<&str>) -> Result<String> {
    call("hf_datasets", "hub_revision", (path, revision))
}

fn call<'a, A, T>(module: &str, function: &str, arguments: A) -> Result<T>
where
    A: for<'py> pyo3::call::PyCallArgs<'py> + 'a,
    T: for<'py> FromPyObjectOwned<'py>,
{
    interpreter::start()?;
    Python::attach(|py| {
        let called = || py.import(format!("pyrust_nn.{module}"))?.call_method1(function, arguments)?.extract().map_err(Into::into);
        called().map_err(|raised| from_python(py, raised))
    })
}
