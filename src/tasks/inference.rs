//! A model answers prompts.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

step_params! {
    []
    /// Generate answers to prompts.
    InferenceParams {
        /// What to ask: a string, or (in Python, Rust and pipeline.toml) a whole conversation; may repeat.
        unset prompt: Vec<Prompt> = Vec::new(), Kind::Prompts;
        /// File of prompts: a JSON list or JSON lines of strings or conversations, or a .txt with one prompt per line.
        unset prompts_file: PathBuf = PathBuf::new(), Kind::Path;
        /// Maximum number of tokens in an answer.
        default max_new_tokens: u32 = 256, int(1, 1_048_576);
        /// Sampling temperature; 0 is greedy decoding. Unset: that of the model's generation config.
        unset temperature: Option<f64> = None, float(0.0, 100.0);
        /// Sample from the smallest set of most likely tokens whose probabilities add up to this. Unset: the model's.
        unset top_p: Option<f64> = None, float_above(0.0, 1.0);
        /// Sample from this many most likely tokens. Unset: the model's.
        unset top_k: Option<u32> = None, int(1, 1_000_000);
        /// Seed of the sampling.
        default seed: u32 = 42, int(0, u32::MAX as i64);
        /// Dtype of the computation: auto is bf16, else fp16, on CUDA, and fp32 on a CPU.
        default dtype: String = "auto".to_string(), DTYPE;
    }
}

impl InferenceParams {
    /// Defaults, and one prompt.
    pub fn new(prompt: impl Into<Prompt>) -> Self {
        Self { prompt: vec![prompt.into()], ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "inference",
    function: "inference",
    about: "Generate answers to prompts",
    subject: &MODEL,
    params: InferenceParams::params,
    script: Some("inference.py"),
};

/// Generates answers to prompts; they are the summary's `result`.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn inference(session: &str, model: &str, params: &InferenceParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
