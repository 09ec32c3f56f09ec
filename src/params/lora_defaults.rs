//! What LoRA takes where neither the user nor a continued adapter decides. Read by the parameters' help, the estimate and the scripts.

use serde_json::{Value, json};

/// Rank of the adapter's matrices.
pub(crate) const RANK: u32 = 8;
/// Scale: alpha / rank.
pub(crate) const ALPHA: u32 = 32;
/// Dropout on the adapter's input.
pub(crate) const DROPOUT: f64 = 0.05;
/// Layers that get an adapter, in a model that names its layers so; in others every linear layer of the blocks.
pub(crate) const TARGET_MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// By the names of the parameters, for the scripts.
pub(crate) fn all() -> Value {
    json!({"lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": DROPOUT, "target_modules": TARGET_MODULES})
}
