//! A LoRA adapter as GGUF files.

use crate::gguf::OUTTYPE;
use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

step_params! {
    []
    /// Write a LoRA adapter as GGUF files, to be loaded with its base model.
    ConvertLoraToGgufParams {
        /// Types of the matrices; a file is written for each.
        default outtype: Vec<String> = vec!["f16".to_string()], OUTTYPE;
    }
}

pub(crate) static TASK: Task = Task {
    name: "convert_lora_to_gguf",
    function: "convert_lora_to_gguf",
    about: "Write a LoRA adapter as GGUF",
    subject: &ADAPTER,
    params: ConvertLoraToGgufParams::params,
    script: Some("lora_to_gguf.py"),
};

/// Writes a LoRA adapter as GGUF.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn convert_lora_to_gguf(session: &str, adapter: &str, params: &ConvertLoraToGgufParams) -> Result<Summary> {
    run_task(&TASK, session, adapter, params)
}
