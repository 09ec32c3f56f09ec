//! LoRA fine-tuning: an adapter is trained while the model stays as it is.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

lora_params! {
    [finetune_params loop_params data_params step_params]
    /// Train a LoRA adapter on the frozen model, continue one, or stack a new one on it.
    FinetuneLoraParams {
        /// Peak learning rate.
        default learning_rate: f64 = 2e-4, float_above(0.0, 10.0);
        /// Scale: the adapter's product is multiplied by lora_alpha / lora_rank.
        unset lora_alpha: u32 = 0, int(1, 1_000_000), else lora_defaults::ALPHA;
        /// Dropout on the adapter's input.
        unset lora_dropout: Option<f64> = None, float(0.0, 0.99), else lora_defaults::DROPOUT;
        /// Adapter to continue: a folder or a session's step.
        unset checkpoint_lora: PathBuf = PathBuf::new(), Kind::Adapter;
        /// What happens to checkpoint_lora: continue trains that adapter further; stack keeps it active and frozen, and trains a new one on top.
        default checkpoint_mode: String = "continue".to_string(), Kind::Choice(&["continue", "stack"]);
        /// Scale by the square root of the rank (rsLoRA, arXiv 2312.03732).
        unset use_rslora: Option<bool> = None, Kind::Bool, else false;
        /// Train the direction and the length of each weight separately (DoRA, arXiv 2402.09353).
        unset use_dora: Option<bool> = None, Kind::Bool, else false;
        /// Learning rate of the adapter's B matrices as a multiple of learning_rate (LoRA+, arXiv 2402.12354), for instance 16; unset, the same for both.
        unset loraplus_ratio: Option<f64> = None, float(1.0, 10_000.0);
    }
}

impl FinetuneLoraParams {
    /// Defaults, and the data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "finetune_lora",
    function: "finetune_lora",
    about: "Train a LoRA adapter on the frozen model, continue one, or stack a new one on it",
    subject: &MODEL,
    params: FinetuneLoraParams::params,
    script: Some("finetuning_lora.py"),
};

/// Trains a LoRA adapter on the frozen model, continues one, or stacks a new one on it.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn finetune_lora(session: &str, model: &str, params: &FinetuneLoraParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
