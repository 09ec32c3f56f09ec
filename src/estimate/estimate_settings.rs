//! Inputs of an estimate.

use serde::{Deserialize, Serialize};

use crate::data::Options;

/// The parameters that an estimate depends on, by their names.
#[derive(Clone, Debug, Deserialize)]
pub struct EstimateSettings {
    pub task: FinetuneMethod,
    pub num_epochs: f64,
    pub batch_size: u64,
    pub gradient_accumulation_steps: u64,
    pub max_tokens_per_batch: Option<u64>,
    pub dtype: String,
    pub device: String,
    pub save_steps: u64,
    pub lora_rank: Option<u64>,
    pub target_modules: Option<Vec<String>>,
    pub load_in_4bit: bool,
    #[serde(default)]
    pub add_tokens: Option<Vec<String>>,
    #[serde(flatten)]
    pub options: Options,
}

/// Full or LoRA fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinetuneMethod {
    FinetuneFull,
    FinetuneLora,
}

/// Token counts of the data set's rows.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RowCounts {
    /// Rows to train on, without those held out for evaluation.
    pub train: u64,
    /// Tokens of the longest row.
    pub longest: u64,
    /// Target tokens of the row that has the most.
    pub longest_targets: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Target tokens of all rows.
    pub targets: u64,
}

/// Bytes of an element of this dtype.
pub(crate) fn bytes_of(dtype: &str) -> u64 {
    if dtype == "fp32" { 4 } else { 2 }
}
