//! Converts a LoRA adapter to GGUF.

use crate::gguf::ADAPTER_OUTTYPE;
use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

adapter_params! {
    [proof_params step_params]
    /// Convert a LoRA adapter to GGUF files, which are loaded together with the base model.
    ConvertLoraToGgufParams {
        /// Data types of the matrices. One file is written for each.
        default outtype: Vec<String> = vec!["f16".to_string()], ADAPTER_OUTTYPE, Output;
    }
}

pub(crate) static TASK: Task = Task {
    name: "convert_lora_to_gguf",
    function: "convert_lora_to_gguf",
    about: "Convert a LoRA adapter to GGUF",
    examples: [
        ("Convert the adapter of an earlier step:", "pyrust-nn convert-lora-to-gguf --adapter s1/finetune_lora --session s1"),
        ("Convert an adapter in a folder:", "pyrust-nn convert-lora-to-gguf --adapter path/to/adapter"),
    ],
    input: &ADAPTER,
    params: ConvertLoraToGgufParams::params,
    script: Some("convert_lora_to_gguf.py"),
};

/// Converts a LoRA adapter to GGUF.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn convert_lora_to_gguf(session: &str, adapter: &str, params: &ConvertLoraToGgufParams) -> Result<Summary> {
    run_task(&TASK, session, adapter, params)
}
