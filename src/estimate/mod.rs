//! Estimates the cost of a training: steps, memory, disk space. It uses the model's configuration and the headers of its weight files, and
//! reads no weights.

mod disk;
mod estimate_settings;
mod lora;
mod memory;
mod model_shape;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use model_shape::ModelShape;
pub(crate) use model_shape::{embedding_rows, is_adapter, layer_names, positions, read_config};

pub use disk::Disk;
pub use estimate_settings::FinetuneMethod;
pub(crate) use estimate_settings::{EstimateSettings, RowCounts};
pub use memory::Memory;

/// The estimated cost of a training. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub task: FinetuneMethod,
    /// Device: cpu or cuda.
    pub device: String,
    /// Dtype of the computation: fp32, bf16 or fp16.
    pub dtype: String,
    /// Number of training steps: `ceil(num_epochs * steps_per_epoch)`.
    pub steps: u64,
    /// `ceil(rows / (batch_size * gradient_accumulation_steps))`.
    pub steps_per_epoch: u64,
    /// Number of parameters of the model; null if its folder has no weights.
    pub parameters: Option<u64>,
    pub trainable_parameters: Option<u64>,
    pub memory: Option<Memory>,
    pub disk: Option<Disk>,
    /// Set after `probe`.
    pub time: Option<TrainingTime>,
    /// What could not be estimated, and why.
    pub missing: Vec<String>,
}

/// A rough estimate of the training time, extrapolated from timing rows in two layers of the model's size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingTime {
    /// Time of all steps, without loading and saving.
    pub seconds: f64,
    pub tokens_per_second: f64,
    /// Tokens of the row that was timed.
    pub row_tokens: u64,
    pub row_target_tokens: u64,
}

/// Reasons why the model cannot be trained with these settings, regardless of the data.
pub(crate) type Refusals = Vec<String>;

/// Estimates the training of the model in `folder`.
///
/// # Errors
/// Kind `model` if a file in the folder cannot be read.
pub(crate) fn estimate(folder: &Path, settings: &EstimateSettings, rows: RowCounts) -> Result<(Estimate, Refusals)> {
    let (device, dtype) = place(settings);
    let per_step = settings.batch_size.saturating_mul(settings.gradient_accumulation_steps).max(1);
    let steps_per_epoch = rows.train.div_ceil(per_step);
    let steps = if rows.train == 0 { 0 } else { (settings.num_epochs * steps_per_epoch as f64).ceil() as u64 };
    let mut estimate = Estimate {
        task: settings.task,
        device: device.to_string(),
        dtype: dtype.to_string(),
        steps,
        steps_per_epoch,
        parameters: None,
        trainable_parameters: None,
        memory: None,
        disk: None,
        time: None,
        missing: Vec::new(),
    };
    let mut refusals = Vec::new();
    let model = match ModelShape::open(folder)? {
        Ok(model) => model,
        Err(why) => {
            if is_adapter(folder) {
                refusals.push(format!(
                    "{} is a LoRA adapter; give its base model as model and the adapter as checkpoint_lora, or merge it first (task merge)",
                    folder.display()
                ));
            }
            estimate.missing.push(format!("memory and disk: {why}"));
            return Ok((estimate, refusals));
        }
    };
    if let Some(positions) = model.positions().filter(|positions| u64::from(settings.options.max_length) > *positions) {
        refusals.push(format!(
            "max_length {} exceeds the {positions} positions (max_position_embeddings) of {}; set max_length to at most {positions}",
            settings.options.max_length,
            folder.display()
        ));
    }
    if model.quantized && settings.task == FinetuneMethod::FinetuneFull {
        refusals.push(format!(
            "{} is quantized, and quantized weights cannot be trained; give the original model, or train an adapter on this one with \
             finetune_lora",
            folder.display()
        ));
    }
    let adapter = match settings.task {
        FinetuneMethod::FinetuneFull => None,
        FinetuneMethod::FinetuneLora => match lora::Adapter::of(&model, settings) {
            Ok(adapter) => Some(adapter),
            Err(why) => {
                refusals.push(why);
                return Ok((estimate, refusals));
            }
        },
    };
    let parameters = model.parameters();
    let trainable = adapter.as_ref().map_or(parameters, lora::Adapter::parameters);
    estimate.trainable_parameters = Some(trainable);
    if model.quantized {
        estimate.missing.push("parameters of the model: it is quantized, so its files hold fewer elements than it has parameters".into());
    } else {
        estimate.parameters = Some(parameters);
    }
    match memory::memory(&model, adapter.as_ref(), settings, rows, (device, dtype)) {
        Ok(memory) => estimate.memory = Some(memory),
        Err(why) => estimate.missing.push(format!("memory: {why}")),
    }
    estimate.disk = Some(disk::disk(&model, adapter.as_ref(), settings, steps, dtype));
    Ok((estimate, refusals))
}

/// Device and dtype, chosen as training does: `auto` is CUDA with bf16 if NVIDIA's driver shows a GPU.
fn place(settings: &EstimateSettings) -> (&'static str, &'static str) {
    let gpu = || std::fs::read_dir("/proc/driver/nvidia/gpus").is_ok_and(|mut gpus| gpus.next().is_some());
    let cuda = settings.device.starts_with("cuda") || settings.device == "auto" && gpu();
    let dtype = match settings.dtype.as_str() {
        "bf16" => "bf16",
        "fp16" => "fp16",
        "auto" if cuda => "bf16",
        _ => "fp32",
    };
    (if cuda { "cuda" } else { "cpu" }, dtype)
}
