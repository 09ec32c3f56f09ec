//! A model that llama.cpp or the server of another project serves, in a process of its own.

use anyhow::Result;
use pyo3::prelude::*;
use serde_json::Value;

use crate::python::exceptions::from_python;
use crate::python::interpreter;

/// A running server of a model. It ends on drop.
pub(crate) struct ServedModel(Py<PyAny>);

/// Where llama.cpp listens, on the loopback interface.
#[derive(Clone, Debug)]
pub(crate) struct LlamaAddress {
    /// Host and port.
    pub host: String,
    pub key: String,
    /// `cpu`, or the name of a GPU.
    pub device: String,
}

impl ServedModel {
    /// Starts the engine, which loads the files. `params` as in `serving/program_model.py`.
    pub(crate) fn start(params: &Value) -> Result<ServedModel> {
        call(|py| Ok(ServedModel(py.import("pyrust_nn.serving.program_model")?.call_method1("start", (params.to_string(),))?.unbind())))
    }

    /// Where it listens. A restart changes it.
    pub(crate) fn address(&self) -> Result<LlamaAddress> {
        let (host, key, device) = call(|py| self.0.call_method0(py, "address")?.extract(py))?;
        Ok(LlamaAddress { host, key, device })
    }

    /// The positions of prompt and answer.
    pub(crate) fn positions(&self) -> Result<u64> {
        call(|py| self.0.getattr(py, "positions")?.extract(py))
    }

    /// Returns when llama.cpp has ended and was started again: how it ended. `None` if [`ServedModel::close`] ended it.
    ///
    /// # Errors
    /// Kind `model`: it had been started again before.
    pub(crate) fn wait_and_restart(&self) -> Result<Option<String>> {
        call(|py| self.0.call_method0(py, "wait_and_restart")?.extract(py))
    }

    /// Ends llama.cpp.
    pub(crate) fn close(&self) {
        drop(call(|py| self.0.call_method0(py, "close").map(drop)));
    }
}

impl Drop for ServedModel {
    fn drop(&mut self) {
        self.close();
    }
}

/// The index of the first of `models` that an adapter fits.
pub(crate) fn first_model_for(adapter: &str, models: &[String]) -> Result<usize> {
    let models = Value::from(models).to_string();
    call(|py| py.import("pyrust_nn.serving.gguf_models")?.call_method1("first_model_for", (adapter, models))?.extract())
}

/// Calls Python without a bridge: a server outlives the call, and the streams of its host are its own.
fn call<T>(work: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T> {
    interpreter::start()?;
    Python::attach(|py| work(py).map_err(|raised| from_python(py, raised)))
}
