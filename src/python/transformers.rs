//! Rendering of conversations by transformers.

use std::path::Path;

use anyhow::Result;
use pyo3::exceptions::PyModuleNotFoundError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::base::error::{Error, Kind};
use crate::data::{Conversation, PROBE, Render, RenderError, RenderText, Rendering, Role, Transformers, TurnFinder, place};
use crate::python::convert::to_object;
use crate::python::{from_python, interpreter};

/// Renders with transformers. Starts Python if its environment exists.
#[derive(Debug)]
pub(crate) struct PythonTransformers;

/// Starts Python if its environment exists; otherwise returns false.
fn started() -> Result<bool> {
    match interpreter::start_existing() {
        Ok(()) => Ok(true),
        Err(error) if Error::of(&error).kind == Kind::Setup => Ok(false),
        Err(error) => Err(error),
    }
}

impl Transformers for PythonTransformers {
    fn version(&self) -> Result<Option<String>> {
        if !started()? {
            return Ok(None);
        }
        Python::attach(|py| {
            let metadata = py.import("importlib.metadata").map_err(|raised| from_python(py, raised))?;
            match metadata.call_method1("version", ("transformers",)).and_then(|version| version.extract()) {
                Ok(version) => Ok(Some(version)),
                Err(raised) if raised.is_instance_of::<PyModuleNotFoundError>(py) => Ok(None),
                Err(raised) => Err(from_python(py, raised)),
            }
        })
    }

    fn renderer(&self, folder: &Path) -> Result<Option<Box<dyn Render + '_>>> {
        if !started()? {
            return Ok(None);
        }
        let (template, end_tokens) = Python::attach(|py| {
            let created = || {
                let template = py.import("pyrust_nn.chat.renderer")?.call_method1("renderer_for", (folder,))?;
                PyResult::Ok((template.clone().unbind(), template.getattr("end_tokens")?.extract()?))
            };
            created().map_err(|raised| from_python(py, raised))
        })?;
        Ok(Some(Box::new(TransformersRenderer { template, turns: TurnFinder::new(end_tokens) })))
    }
}

/// Renders conversations with transformers.
struct TransformersRenderer {
    /// `pyrust_nn.chat.renderer.ChatRenderer`
    template: Py<PyAny>,
    turns: TurnFinder,
}

impl Render for TransformersRenderer {
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        let texts = Python::attach(|py| {
            let call = || {
                let shown = to_object(py, &conversation.to_value())?;
                let (messages, options) = self.template.bind(py).call_method1("arguments", (shown,))?.extract()?;
                PyResult::Ok(TransformersText { template: &self.template, index: conversation.index, messages, options })
            };
            call().map_err(|raised| from_python(py, raised))
        })?;
        // The GIL is held only while a text is rendered, not while turns are found or warnings are written.
        self.turns.renderings(conversation, &texts)
    }
}

/// Applies the template of transformers to one conversation.
struct TransformersText<'a> {
    template: &'a Py<PyAny>,
    index: usize,
    messages: Py<PyList>,
    /// Keyword arguments of `apply_chat_template`.
    options: Py<PyDict>,
}

impl TransformersText<'_> {
    fn render(&self, count: usize, probe: Option<Role>, prompt: bool, message: Option<usize>) -> Result<String, RenderError> {
        let text = Python::attach(|py| {
            let call = || {
                let messages = self.messages.bind(py).get_slice(0, count);
                if let Some(role) = probe {
                    let added = PyDict::new(py);
                    added.set_item("role", role.as_str())?;
                    added.set_item("content", PROBE)?;
                    messages.append(added)?;
                }
                let arguments = (messages, place(self.index, message), prompt, self.options.bind(py));
                self.template.bind(py).call_method1("render", arguments)?.extract()
            };
            call().map_err(|raised| from_python(py, raised))
        });
        Ok(text?)
    }
}

impl RenderText for TransformersText<'_> {
    fn text(&self, count: usize, prompt: bool, message: Option<usize>) -> Result<String, RenderError> {
        self.render(count, None, prompt, message)
    }

    fn probe(&self, count: usize, role: Role, message: Option<usize>) -> Result<String, RenderError> {
        self.render(count, Some(role), false, message)
    }
}
