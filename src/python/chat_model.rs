//! The model of a conversation in the terminal.

use anyhow::{Context, Result};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::python::interpreter::with_python;

/// A model that answers. It is closed on drop.
pub(crate) struct ChatModel(Py<PyAny>);

/// An answer. The counts are absent if it was stopped.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatAnswer {
    pub text: String,
    /// `stop`, `length`, or `stopped` by Ctrl-C.
    pub finish_reason: String,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
    pub seconds: Option<f64>,
}

impl ChatModel {
    /// Loads a model. `params`: those of inference, with resolved paths.
    pub(crate) fn open(params: &Map<String, Value>) -> Result<ChatModel> {
        let params = Value::Object(params.clone()).to_string();
        with_python(|py| Ok(ChatModel(py.import("pyrust_nn.answering")?.call_method1("ChatModel", (params,))?.unbind())))
    }

    /// The next answer to `messages`. `on_text` gets it while it grows. Ctrl-C stops it, which is no error.
    pub(crate) fn answer(&self, messages: &[Value], params: &Map<String, Value>, on_text: fn(&str)) -> Result<ChatAnswer> {
        let (messages, params) = (Value::from(messages).to_string(), Value::Object(params.clone()).to_string());
        let answer: String = with_python(|py| {
            let shown = move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<()> {
                on_text(&args.get_item(0)?.extract::<String>()?);
                Ok(())
            };
            let shown = PyCFunction::new_closure(py, None, None, shown)?;
            Ok(self.0.call_method1(py, "answer", (messages, params, shown))?.extract(py)?)
        })?;
        serde_json::from_str(&answer).context("the answer does not have the form {text, finish_reason}")
    }
}

impl Drop for ChatModel {
    fn drop(&mut self) {
        drop(with_python(|py| Ok(self.0.call_method0(py, "close")?)));
    }
}
