//! The tasks: one file each, with its parameters, its definition and its Rust function. The command line, the Python functions, the type
//! stub, the docs and the tests are derived from the lists below. To add a task, add its file, a line here and its script.

use anyhow::Result;

use crate::base::error;
use crate::base::error::did_you_mean;
use crate::params::command::DatasetCommand;
use crate::params::task::Task;

mod call;

mod check;
mod compute_imatrix;
mod convert_lora_to_gguf;
mod convert_model_to_gguf;
mod finetune_full;
mod finetune_lora;
mod flatten;
mod inference;
mod merge;
mod prepare;
mod quantize_model;
mod script;
mod verify;

pub use check::{CheckParams, check_dataset};
pub use compute_imatrix::{ComputeImatrixParams, compute_imatrix};
pub use convert_lora_to_gguf::{ConvertLoraToGgufParams, convert_lora_to_gguf};
pub use convert_model_to_gguf::{ConvertModelToGgufParams, convert_model_to_gguf};
pub use finetune_full::{FinetuneFullParams, finetune_full};
pub use finetune_lora::{FinetuneLoraParams, finetune_lora};
pub use flatten::{FlattenParams, flatten};
pub use inference::{InferenceParams, inference};
pub use merge::{MergeParams, merge};
pub use prepare::{PrepareParams, prepare_dataset};
pub use quantize_model::{QuantizeModelParams, quantize_model};
pub use script::{ScriptParams, run_script};
pub use verify::{VerifyParams, verify};

/// Every task, in the order shown to users.
pub(crate) static TASKS: &[&Task] = &[
    &finetune_full::TASK,
    &finetune_lora::TASK,
    &flatten::TASK,
    &merge::TASK,
    &quantize_model::TASK,
    &compute_imatrix::TASK,
    &convert_model_to_gguf::TASK,
    &convert_lora_to_gguf::TASK,
    &verify::TASK,
    &inference::TASK,
    &script::TASK,
];

/// Every dataset command.
pub(crate) static DATASET_COMMANDS: &[&DatasetCommand] = &[&prepare::COMMAND, &check::COMMAND];

/// The task of that name.
///
/// # Errors
/// Kind `usage`: there is none. The message suggests the nearest name.
pub(crate) fn task_named(name: &str) -> Result<&'static Task> {
    TASKS.iter().copied().find(|task| task.name == name).ok_or_else(|| {
        let near = did_you_mean(name, TASKS.iter().map(|task| task.name)).map(|near| format!("; did you mean {near}?"));
        let all = TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
        error::usage(format!("there is no task {name:?}{}", near.unwrap_or_else(|| format!("; the tasks are {all}"))))
    })
}

#[cfg(test)]
mod tests;
