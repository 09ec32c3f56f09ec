//! Merging: folds an adapter into its base model.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

adapter_params! {
    [proof_params step_params]
    /// Merge an adapter into its base model.
    MergeParams {
        /// Dtype of the merged model: auto keeps the base model's dtype.
        default dtype: String = "auto".to_string(), DTYPE, Memory;
    }
}

pub(crate) static TASK: Task = Task {
    name: "merge",
    function: "merge",
    about: "Merge an adapter into its base model",
    examples: [
        ("Merge the adapter of an earlier step:", "pyrust-nn merge -m s1/finetune_lora --session s1"),
        ("Merge an adapter in a folder, and save the model in bf16:", "pyrust-nn merge -m path/to/adapter --dtype bf16"),
    ],
    input: &MODEL,
    params: MergeParams::params,
    script: Some("merge.py"),
};

/// Merges an adapter into its base model.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn merge(session: &str, model: &str, params: &MergeParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
