//! What only Python can do for a data set: render by transformers, read Parquet, make or download a model.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use pyo3::prelude::*;

use crate::base::error::{Error, Kind};
use crate::data::{Conversation, Render, RenderError, Rendering, Transformers, Turn};
use crate::python::convert::to_object;
use crate::python::{from_python, interpreter};

/// transformers in the interpreter that runs, or in one that is started where its environment is there already.
#[derive(Debug)]
pub(crate) struct PythonTransformers;

impl Transformers for PythonTransformers {
    fn renderer(&self, folder: &Path) -> Result<Option<Box<dyn Render + '_>>> {
        match interpreter::start_if_there() {
            Ok(()) => {}
            Err(error) if Error::of(&error).kind == Kind::Setup => return Ok(None),
            Err(error) => return Err(error),
        }
        let made = Python::attach(|py| {
            let made = || py.import("pyrust_nn.chat.renderer")?.call_method1("renderer_for", (folder,));
            made().map(Bound::unbind).map_err(|raised| from_python(py, raised))
        });
        Ok(Some(Box::new(PythonRenderer(Mutex::new(made?)))))
    }
}

/// `pyrust_nn.chat.renderer.ChatRenderer`, which renders one conversation at a time.
struct PythonRenderer(Mutex<Py<PyAny>>);

/// A text, its turns' places in characters, and the message it is for.
type Rendered = (String, Vec<(usize, usize, usize)>, Option<usize>);

impl Render for PythonRenderer {
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        // Locked before the interpreter is, and never the other way round.
        let renderer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rendered: Result<Vec<Rendered>> = Python::attach(|py| {
            let call = || {
                let shown = to_object(py, &conversation.to_value())?;
                renderer.bind(py).call_method1("for_rust", (shown, conversation.index))?.extract()
            };
            call().map_err(|raised| from_python(py, raised))
        });
        Ok(rendered?
            .into_iter()
            .map(|(text, turns, message)| {
                let ends: Vec<usize> =
                    if text.is_ascii() { Vec::new() } else { text.char_indices().map(|(at, _)| at).chain([text.len()]).collect() };
                let byte = |place: usize| if ends.is_empty() { place } else { ends[place] };
                let turns = turns
                    .into_iter()
                    .map(|(prompt_end, start, end)| Turn { prompt_end: byte(prompt_end), target_start: byte(start), target_end: byte(end) })
                    .collect();
                Rendering { text, turns, message }
            })
            .collect())
    }
}

/// The folder of a model that may have to be made or downloaded first.
pub(crate) fn model_folder(model: &str, offline: bool) -> Result<PathBuf> {
    call("models.sources", "resolved_folder", (model, offline))
}

/// The model that an adapter was trained on: a folder, `builtin:tiny` or a hub name.
pub(crate) fn adapter_base(adapter: &Path) -> Result<String> {
    call("models.sources", "adapter_base", (adapter,))
}

/// A data set of the `datasets` library as a file of JSON lines in the cache.
pub(crate) fn json_lines(path: &Path) -> Result<PathBuf> {
    call("hf_datasets", "json_lines", (path,))
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
