//! What a training will take: steps, memory, disk. Reckoned from the model's configuration and the headers of its weights; no weight
//! is read.

mod disk;
mod lora;
mod memory;
mod model;
mod settings;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use model::Model;

pub use disk::Disk;
pub use memory::Memory;
pub use settings::Task;
pub(crate) use settings::{Rows, Settings};

/// What a training will take. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub task: Task,
    /// Where the memory is needed: cpu or cuda.
    pub device: String,
    /// What is computed in: fp32, bf16 or fp16.
    pub dtype: String,
    /// Times the weights move: `ceil(num_epochs * steps_per_epoch)`.
    pub steps: u64,
    /// `ceil(rows / (batch_size * gradient_accumulation_steps))`.
    pub steps_per_epoch: u64,
    /// Of the model; null where its folder has no weights.
    pub parameters: Option<u64>,
    pub trainable_parameters: Option<u64>,
    pub memory: Option<Memory>,
    pub disk: Option<Disk>,
    /// After `probe`.
    pub time: Option<Time>,
    /// What could not be reckoned, and why.
    pub missing: Vec<String>,
}

/// A rough figure of the time that the steps take, after some rows through two layers of the model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Of all steps; loading and saving not counted.
    pub seconds: f64,
    pub tokens_per_second: f64,
    /// The row that was timed.
    pub row_tokens: u64,
    pub row_target_tokens: u64,
}

/// Why the model cannot be trained so, whatever the data.
pub(crate) type Refusals = Vec<String>;

/// Reckons for the model in `folder`.
///
/// # Errors
/// Kind `model` for files in the folder that cannot be read.
pub(crate) fn estimate(folder: &Path, settings: &Settings, rows: Rows) -> Result<(Estimate, Refusals)> {
    let (device, dtype) = place(settings);
    let per_step = settings.batch_size.saturating_mul(settings.gradient_accumulation_steps).max(1);
    let steps_per_epoch = rows.train.div_ceil(per_step);
    let steps = if rows.train == 0 { 0 } else { (settings.num_epochs * steps_per_epoch as f64).ceil() as u64 };
    let mut made = Estimate {
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
    let model = match Model::open(folder)? {
        Ok(model) => model,
        Err(why) => {
            if model::is_adapter(folder) {
                refusals.push(format!(
                    "{} is itself a LoRA adapter; give its base as model and the adapter as checkpoint_lora, or merge it first (task merge)",
                    folder.display()
                ));
            }
            made.missing.push(format!("memory and disk: {why}"));
            return Ok((made, refusals));
        }
    };
    if let Some(positions) = model.positions().filter(|positions| u64::from(settings.options.max_length) > *positions) {
        refusals.push(format!(
            "max_length {} is beyond the {positions} positions (max_position_embeddings) of {}; set max_length to {positions} or less",
            settings.options.max_length,
            folder.display()
        ));
    }
    if model.quantized && settings.task == Task::FinetuneFull {
        refusals.push(format!(
            "{} is quantized, and quantized weights cannot be trained; give the model that it was made from, or train an adapter on it with \
             finetune_lora",
            folder.display()
        ));
    }
    let adapter = match settings.task {
        Task::FinetuneFull => None,
        Task::FinetuneLora => match lora::Adapter::of(&model, settings) {
            Ok(adapter) => Some(adapter),
            Err(why) => {
                refusals.push(why);
                return Ok((made, refusals));
            }
        },
    };
    let parameters = model.parameters();
    let trainable = adapter.as_ref().map_or(parameters, lora::Adapter::parameters);
    made.trainable_parameters = Some(trainable);
    if model.quantized {
        made.missing.push("parameters of the model: it is quantized, so its files hold fewer numbers than it has weights".into());
    } else {
        made.parameters = Some(parameters);
    }
    match memory::memory(&model, adapter.as_ref(), settings, rows, (device, dtype)) {
        Ok(memory) => made.memory = Some(memory),
        Err(why) => made.missing.push(format!("memory: {why}")),
    }
    made.disk = Some(disk::disk(&model, adapter.as_ref(), settings, steps, dtype));
    Ok((made, refusals))
}

/// Where is computed and in what, as training will choose: `auto` is CUDA where NVIDIA's driver shows a GPU, and there bf16.
fn place(settings: &Settings) -> (&'static str, &'static str) {
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
