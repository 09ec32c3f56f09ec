//! A running server as a Python object.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyTuple};
use serde_json::Value;

use crate::base::error;
use crate::native::functions::{arguments, python_function};
use crate::params::interface::Interface;
use crate::python::convert::to_object;
use crate::python::exceptions::to_python;
use crate::reference::Function;
use crate::serve;
use crate::serve::Server;

/// A running server. In a `with` statement it ends after the answers in flight.
#[pyclass(frozen, name = "Server", module = "pyrust_nn._core")]
pub(crate) struct PyServer {
    /// `None` after it has ended.
    server: Mutex<Option<Server>>,
    #[pyo3(get)]
    url: String,
    #[pyo3(get)]
    session: String,
    #[pyo3(get)]
    step: String,
    models: Value,
    summary: Mutex<Value>,
}

impl PyServer {
    fn start(py: Python<'_>, given: serde_json::Map<String, Value>) -> PyResult<PyServer> {
        let mut given = given;
        let session = match given.shift_remove("session") {
            None | Some(Value::Null) => None,
            Some(Value::String(session)) => Some(session),
            Some(other) => return Err(to_python(error::usage(format!("session must be a string or None, not {other}")))),
        };
        let server = py.detach(|| Server::start(session, given, Interface::Python)).map_err(to_python)?;
        Ok(PyServer {
            url: server.url().to_string(),
            session: server.session().to_string(),
            step: server.step().to_string(),
            models: server.models().into(),
            server: Mutex::new(Some(server)),
            summary: Mutex::new(Value::Null),
        })
    }

    fn take(&self) -> Option<Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl PyServer {
    /// The models and adapters, as `/v1/models` lists them.
    #[getter]
    fn models(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        to_object(py, &self.models)
    }

    /// End after the answers in flight; returns the step's summary. Ctrl-C ends it at once.
    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(server) = self.take() {
            let check = || Python::attach(|py| py.check_signals().map_err(anyhow::Error::from));
            let summary = py.detach(|| server.close_unless(check)).map_err(to_python)?;
            let summary = serde_json::to_value(summary).map_err(|cause| PyRuntimeError::new_err(cause.to_string()))?;
            *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
        }
        let summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        to_object(py, &summary)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*raised))]
    fn __exit__(&self, py: Python<'_>, raised: &Bound<'_, PyTuple>) -> PyResult<()> {
        let _ = raised;
        self.close(py).map(drop)
    }
}

impl Drop for PyServer {
    fn drop(&mut self) {
        if let Some(server) = self.take() {
            // Its threads need Python's lock to end.
            Python::attach(|py| py.detach(|| drop(server)));
        }
    }
}

/// `serve` as a Python function `(session, model, *, parameters)`.
pub(crate) fn serve_function(py: Python<'_>) -> PyResult<Bound<'_, PyCFunction>> {
    let function = Function::of_serve();
    python_function(py, &function, move |py, args, keywords| {
        let given = arguments(serve::NAME, &["session", serve::SERVED_MODELS.name], args, keywords)?;
        let server = Py::new(py, PyServer::start(py, given)?)?;
        // A program that forgets it: llama.cpp ends before the interpreter does.
        py.import("atexit")?.call_method1("register", (server.getattr(py, "close")?,))?;
        Ok(server.into_any())
    })
}
