//! Times training rows on a small part of a model, for `check`.

use std::path::Path;

use anyhow::{Context, Result};
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::base::signals::Handlers;
use crate::python::{from_python, interpreter};

/// The measurement: forward and backward pass of one row through two layers of the model's shape.
#[derive(Debug, Serialize)]
pub(crate) struct TimingProbe<'a> {
    pub folder: &'a Path,
    /// Tokens of the row.
    pub tokens: u64,
    /// Target tokens of the row.
    pub targets: u64,
    pub device: &'a str,
    pub dtype: &'a str,
    /// Whether all weights are trained, or only an adapter.
    pub full: bool,
    pub lora_rank: Option<u64>,
    pub target_modules: Option<&'a [String]>,
    pub offline: bool,
}

/// The times, scaled to the whole model, in seconds.
#[derive(Debug, Deserialize)]
pub(crate) struct Timed {
    /// Forward and backward pass of one row.
    pub row_seconds: f64,
    /// The optimizer's update in one step.
    pub step_seconds: f64,
}

/// Runs the measurement in Python.
///
/// # Errors
/// Kind `setup` if Python cannot start, or the error of the measurement.
pub(crate) fn time_rows(probe: &TimingProbe<'_>) -> Result<Timed> {
    interpreter::start()?;
    let _signals = Handlers::keep();
    let request = serde_json::to_string(probe)?;
    let answer: String = Python::attach(|py| {
        let called = || py.import("pyrust_nn.training.probe")?.call_method1("time_rows", (request,))?.extract();
        called().map_err(|raised| from_python(py, raised))
    })?;
    serde_json::from_str(&answer).context("the probe's answer does not have the form {row_seconds, step_seconds}")
}
