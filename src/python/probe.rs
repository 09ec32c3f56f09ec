//! Times some rows through a piece of a model, for `check`.

use std::path::Path;

use anyhow::{Context, Result};
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::base::signals::Handlers;
use crate::python::{from_python, interpreter};

/// What is timed: forward and backward of one row through two layers of the model's shape.
#[derive(Debug, Serialize)]
pub(crate) struct TimingProbe<'a> {
    pub folder: &'a Path,
    /// Of the row, and how many of them are targets.
    pub tokens: u64,
    pub targets: u64,
    pub device: &'a str,
    pub dtype: &'a str,
    /// Every weight, or an adapter.
    pub full: bool,
    pub lora_rank: Option<u64>,
    pub target_modules: Option<&'a [String]>,
    pub offline: bool,
}

/// Of the whole model.
#[derive(Debug, Deserialize)]
pub(crate) struct Timed {
    /// One row forward and backward.
    pub row_seconds: f64,
    /// The optimizer's part of a step.
    pub step_seconds: f64,
}

pub(crate) fn time_rows(probe: &TimingProbe<'_>) -> Result<Timed> {
    interpreter::start()?;
    let _signals = Handlers::keep();
    let wanted = serde_json::to_string(probe)?;
    let answer: String = Python::attach(|py| {
        let called = || py.import("pyrust_nn.training.probe")?.call_method1("time_rows", (wanted,))?.extract();
        called().map_err(|raised| from_python(py, raised))
    })?;
    serde_json::from_str(&answer).context("the probe's answer does not have the form {row_seconds, step_seconds}")
}
