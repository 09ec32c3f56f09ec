//! A model as GGUF files.

use crate::gguf::OUTTYPE;
use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

step_params! {
    []
    /// Write the model as GGUF files, for llama.cpp and Ollama.
    ConvertModelToGgufParams {
        /// Types of the matrices; a file is written for each.
        default outtype: Vec<String> = vec!["f16".to_string()], OUTTYPE;
    }
}

pub(crate) static TASK: Task = Task {
    name: "convert_model_to_gguf",
    function: "convert_model_to_gguf",
    about: "Write the model as GGUF, for llama.cpp and Ollama",
    subject: &MODEL,
    params: ConvertModelToGgufParams::params,
    script: Some("model_to_gguf.py"),
};

/// Writes the model as GGUF.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn convert_model_to_gguf(session: &str, model: &str, params: &ConvertModelToGgufParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
