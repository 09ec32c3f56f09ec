//! An adapter and its base become a plain model.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

step_params! {
    []
    /// Merge an adapter into its base model.
    MergeParams {
        /// Dtype of the merged model: auto is the base model's own.
        default dtype: String = "auto".to_string(), DTYPE;
    }
}

pub(crate) static TASK: Task = Task {
    name: "merge",
    function: "merge",
    about: "Merge an adapter into its base model",
    subject: &MODEL,
    params: MergeParams::params,
    script: Some("merge.py"),
};

/// Merges an adapter into its base model.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn merge(session: &str, model: &str, params: &MergeParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
