//! What decides an estimate, under the names of the parameters.

use serde::{Deserialize, Serialize};

use crate::data::Options;

/// What decides it, under the names of the parameters.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    pub task: Task,
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
    #[serde(flatten)]
    pub options: Options,
}

/// The way of fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    FinetuneFull,
    FinetuneLora,
}

/// What the data set contributes.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Rows to train on, those held out for evaluation not counted.
    pub train: u64,
    /// Tokens of the longest row.
    pub longest: u64,
    /// Target tokens of the row that has the most.
    pub longest_targets: u64,
    /// Of all rows.
    pub tokens: u64,
    pub targets: u64,
}

/// Bytes of a number in a format.
pub(crate) fn bytes_of(dtype: &str) -> u64 {
    if dtype == "fp32" { 4 } else { 2 }
}
