//! What only Python can tell before a step begins. It starts in an environment that exists: a refused step must not create one.

use anyhow::Result;
use pyo3::prelude::*;
use serde_json::Value;

use crate::params::interface::Interface;
use crate::python::exceptions::from_python;
use crate::python::interpreter;

/// Checks that torch sees the GPU `device`: `cuda`, or `cuda:N`.
///
/// # Errors
/// Kind `input`: it does not. Kind `setup`: Python cannot start, or has no torch.
pub(crate) fn check_device(device: &str) -> Result<()> {
    call("models.devices", "check_device", (device,))
}

/// Checks that torch.compile works for `device`, a value of the parameter.
///
/// # Errors
/// Kind `setup`: there is no compiler, or it does not work; Python cannot start.
pub(crate) fn check_compiler(device: &str) -> Result<()> {
    call("training.compiling", "refuse_without_compiler", (device,))
}

/// Checks that there is a model of this name: downloaded, or on the Hub unless `offline`. Downloads nothing.
///
/// # Errors
/// Kind `model`: there is none, or the Hub does not answer. Kind `setup`: Python cannot start.
pub(crate) fn check_hub_model(name: &str, offline: bool) -> Result<()> {
    call("models.model_folder", "check_hub_model", (name, offline))
}

/// Checks that the patterns of `tensor_type` are Python's regular expressions. `types`: pattern and type.
///
/// # Errors
/// Kind `usage`: one is not. Kind `setup`: Python cannot start.
pub(crate) fn check_tensor_patterns(types: &Value) -> Result<()> {
    call("gguf_export.mix", "check_patterns", (types.to_string(),))
}

/// Checks that llama.cpp can serve a GGUF file with these adapters and positions.
///
/// # Errors
/// Kinds `model`, `input` and `usage`: it cannot. Kind `setup`: Python cannot start.
pub(crate) fn check_served_model(file: &str, adapters: &[String], ctx_size: Option<u64>) -> Result<()> {
    call("serving.gguf_models", "check_served", (file, adapters, ctx_size))
}

/// Checks that the server of another project can serve a model's folder with these adapters.
///
/// # Errors
/// Kinds `model`, `input` and `usage`: it cannot. Kind `setup`: it is not installed, or Python cannot start.
pub(crate) fn check_served_folders(engine: &str, model: &str, adapters: &[&str]) -> Result<()> {
    call("serving.programs", "check_folders", (engine, model, Value::from(adapters.to_vec()).to_string()))
}

/// Checks that a program is llama.cpp's server.
///
/// # Errors
/// Kind `usage`: it is not. Kind `setup`: Python cannot start.
pub(crate) fn check_llama_server(program: &str) -> Result<()> {
    call("serving.programs", "checked_llama_server", (program,))
}

/// Checks that the packages are installed to which metrics are reported. `names`: values of `report_to`.
///
/// # Errors
/// Kind `input`: one is not. Kind `setup`: Python cannot start.
pub(crate) fn check_reports(names: &[&str], interface: Interface) -> Result<()> {
    if names.is_empty() { Ok(()) } else { call("_runtime.imports", "check_installed", (interface.spell("report_to"), names.to_vec())) }
}

fn call<A: for<'py> pyo3::call::PyCallArgs<'py>>(module: &str, function: &str, arguments: A) -> Result<()> {
    interpreter::start_existing()?;
    Python::attach(|py| {
        let called = || py.import(format!("pyrust_nn.{module}"))?.call_method1(function, arguments);
        called().map(drop).map_err(|raised| from_python(py, raised))
    })
}
