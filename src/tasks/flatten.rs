//! Stacked adapters become one adapter.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

step_params! {
    []
    /// Combine stacked adapters into one adapter that computes the same.
    FlattenParams {}
}

pub(crate) static TASK: Task = Task {
    name: "flatten",
    function: "flatten",
    about: "Combine stacked adapters into one adapter",
    subject: &MODEL,
    params: FlattenParams::params,
    script: Some("flatten.py"),
};

/// Combines stacked adapters into one adapter that computes the same.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn flatten(session: &str, model: &str, params: &FlattenParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
