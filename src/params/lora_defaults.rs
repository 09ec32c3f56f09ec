//! LoRA's defaults, used if neither the user nor a continued adapter decides. The parameters' help, the estimate and the scripts read them.

use serde_json::{Value, json};

/// Rank of the LoRA matrices.
pub(crate) const RANK: u32 = 8;
/// Numerator of the scaling alpha / rank.
pub(crate) const ALPHA: u32 = 32;
/// Dropout on the adapter's input.
pub(crate) const DROPOUT: f64 = 0.05;
/// Layers that LoRA adapts, in models with layers of these names. In others: every linear layer of the transformer blocks.
pub(crate) const TARGET_MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// All defaults by parameter name, for the scripts.
pub(crate) fn all() -> Value {
    json!({"lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": DROPOUT, "target_modules": TARGET_MODULES})
}
