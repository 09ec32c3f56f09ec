//! The tasks as Rust functions: `task(session, subject, &params) -> anyhow::Result<Summary>`.
//!
//! `session` is an id ([`crate::new_session_id`] makes a fresh one), `model` a folder, a session's step, `builtin:tiny` or a hub
//! name. An error carries [`crate::error::Error`] with its kind; the step's `summary.json` says the same.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::params::{
    ConvertLoraToGgufParams, ConvertModelToGgufParams, Door, FinetuneFullParams, FinetuneLoraParams, FlattenParams, InferenceParams,
    MergeParams, QuantizeModelParams, ScriptParams, TaskParams,
};
use crate::pipeline::Pipeline;
use crate::run::{Request, step};
use crate::summary::Summary;
use crate::task::Task;

/// Trains every weight of the model.
pub fn finetune_full(session: &str, model: &str, params: &FinetuneFullParams) -> Result<Summary> {
    call("finetune_full", session, model, params)
}

/// Trains a LoRA adapter beside the frozen model, goes on with one, or stacks a new one upon it.
pub fn finetune_lora(session: &str, model: &str, params: &FinetuneLoraParams) -> Result<Summary> {
    call("finetune_lora", session, model, params)
}

/// Joins stacked adapters into one adapter that computes the same.
pub fn flatten(session: &str, model: &str, params: &FlattenParams) -> Result<Summary> {
    call("flatten", session, model, params)
}

/// Joins an adapter and its base into a plain model.
pub fn merge(session: &str, model: &str, params: &MergeParams) -> Result<Summary> {
    call("merge", session, model, params)
}

/// Makes a smaller copy of the model.
pub fn quantize_model(session: &str, model: &str, params: &QuantizeModelParams) -> Result<Summary> {
    call("quantize_model", session, model, params)
}

/// Writes the model as GGUF.
pub fn convert_model_to_gguf(session: &str, model: &str, params: &ConvertModelToGgufParams) -> Result<Summary> {
    call("convert_model_to_gguf", session, model, params)
}

/// Writes a LoRA adapter as GGUF.
pub fn convert_lora_to_gguf(session: &str, adapter: &str, params: &ConvertLoraToGgufParams) -> Result<Summary> {
    call("convert_lora_to_gguf", session, adapter, params)
}

/// Lets the model answer; the answers are the summary's `result`.
pub fn inference(session: &str, model: &str, params: &InferenceParams) -> Result<Summary> {
    call("inference", session, model, params)
}

/// Runs a Python script with `run(params, session) -> dict`.
pub fn run_script(session: &str, script: &str, params: &ScriptParams) -> Result<Summary> {
    call("script", session, script, params)
}

/// Runs a pipeline file; `overrides` are its top-level keys, such as `model`. Stops at the first step that fails.
pub fn run_pipeline(session: &str, path: &Path, overrides: Map<String, Value>) -> Result<Vec<Summary>> {
    let plan = Pipeline::read(path)?.with(overrides, Some(session.to_string()), Door::Rust)?;
    plan.run(|_| {})?.into_iter().map(crate::run::Outcome::into_result).collect()
}

/// Goes on with what was interrupted in a session (runs directory: PYRUST_NN_RUNS, else `runs`): a fine-tuning from its last whole
/// checkpoint, another step from its beginning; then the remaining steps of the session's pipeline. With `step`, that step alone.
pub fn resume(session: &str, step: Option<&str>) -> Result<Vec<Summary>> {
    let plan = crate::resume::plan(None, session, step, Door::Rust)?;
    plan.run(|_| {})?.into_iter().map(crate::run::Outcome::into_result).collect()
}

fn call<P: TaskParams>(task: &str, session: &str, subject: &str, params: &P) -> Result<Summary> {
    let task = Task::named(task)?;
    let mut given = params.given()?;
    given.insert(task.subject.name.into(), subject.into());
    step(Request::new(task, Some(session.to_string()), given, Door::Rust)).into_result()
}
