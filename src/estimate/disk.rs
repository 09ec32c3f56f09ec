//! Disk space of a training's outputs.

use serde::{Deserialize, Serialize};

use crate::estimate::estimate_settings::{EstimateSettings, bytes_of};
use crate::estimate::lora::Adapter;
use crate::estimate::model_shape::ModelShape;

/// Disk space in the step's folder, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The model, or the adapter, with its tokenizer.
    pub output: u64,
    /// Number of checkpoints, by `save_steps`.
    pub checkpoints: u64,
    /// Size of one checkpoint: weights in fp32, the optimizer's two moments, the tokenizer.
    pub checkpoint: u64,
    pub total: u64,
}

/// Estimates the disk space. The output has the model's stored dtype or the requested one; an adapter is fp32.
pub(crate) fn disk(model: &ModelShape, adapter: Option<&Adapter>, settings: &EstimateSettings, steps: u64, dtype: &str) -> Disk {
    let small_files = model.small_files;
    let trained = adapter.map_or(model.parameters(), Adapter::parameters);
    let stored = if settings.dtype == "auto" { model.stored_dtype() } else { dtype };
    let output = small_files + if adapter.is_some() { 4 * trained } else { bytes_of(stored) * trained };
    let checkpoints = steps.checked_div(settings.save_steps).unwrap_or(0);
    let checkpoint = small_files + 12 * trained;
    Disk { output, checkpoints, checkpoint, total: output.saturating_add(checkpoints.saturating_mul(checkpoint)) }
}
