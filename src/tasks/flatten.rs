//! Flattening: combines stacked adapters into one adapter.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

adapter_params! {
    [proof_params step_params]
    /// Combine stacked adapters into one adapter that computes the same result.
    FlattenParams {}
}

pub(crate) static TASK: Task = Task {
    name: "flatten",
    function: "flatten",
    about: "Combine stacked adapters into one adapter",
    examples: [
        ("Combine the adapters of a step's stack:", "pyrust-nn flatten -m s1/stacked --session s1"),
        ("Combine those of a folder:", "pyrust-nn flatten -m path/to/adapter"),
    ],
    input: &MODEL,
    params: FlattenParams::params,
    script: Some("flatten.py"),
};

/// Combines stacked adapters into one adapter that computes the same result.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn flatten(session: &str, model: &str, params: &FlattenParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
