//! What a training leaves on the disk.

use serde::{Deserialize, Serialize};

use crate::estimate::lora::Adapter;
use crate::estimate::model::Model;
use crate::estimate::settings::{Settings, bytes_of};

/// Bytes in the step's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The model, or the adapter, with its tokenizer.
    pub output: u64,
    /// How many checkpoints `save_steps` makes.
    pub checkpoints: u64,
    /// Of one: weights in fp32, the optimizer's two moments, the tokenizer.
    pub checkpoint: u64,
    pub total: u64,
}

/// The output is stored as the model was, or in the dtype that is asked for; an adapter is fp32.
pub(crate) fn disk(model: &Model, adapter: Option<&Adapter>, settings: &Settings, steps: u64, dtype: &str) -> Disk {
    let small = model.small_files;
    let trained = adapter.map_or(model.parameters(), Adapter::parameters);
    let stored = if settings.dtype == "auto" { model.stored_dtype() } else { dtype };
    let output = small + if adapter.is_some() { 4 * trained } else { bytes_of(stored) * trained };
    let checkpoints = steps.checked_div(settings.save_steps).unwrap_or(0);
    let checkpoint = small + 12 * trained;
    Disk { output, checkpoints, checkpoint, total: output.saturating_add(checkpoints.saturating_mul(checkpoint)) }
}
