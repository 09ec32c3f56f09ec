//! Converts a model to GGUF.

use crate::gguf::OUTTYPE;
use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

adapter_params! {
    [step_params]
    /// Convert the model to GGUF files for llama.cpp and Ollama.
    ConvertModelToGgufParams {
        /// Data types of the matrices. One file is written for each.
        default outtype: Vec<String> = vec!["f16".to_string()], OUTTYPE, Output;
    }
}

pub(crate) static TASK: Task = Task {
    name: "convert_model_to_gguf",
    function: "convert_model_to_gguf",
    about: "Convert the model to GGUF for llama.cpp and Ollama",
    examples: [
        ("Convert a merged model for llama.cpp and Ollama:", "pyrust-nn convert-model-to-gguf -m s1/merge --session s1"),
        ("Write two files, one of each type:", "pyrust-nn convert-model-to-gguf -m s1/merge --outtype f16 q8_0"),
    ],
    input: &MODEL,
    params: ConvertModelToGgufParams::params,
    script: Some("model_to_gguf.py"),
};

/// Converts the model to GGUF.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn convert_model_to_gguf(session: &str, model: &str, params: &ConvertModelToGgufParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
