//! LoRA fine-tuning: trains an adapter while the model's own weights stay frozen.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

// lora_rank and target_modules are in `lora_params!` (params/shared_params.rs), because `check` has them too.
lora_params! {
    [finetune_params loop_params data_params step_params]
    /// Train a LoRA adapter on the frozen model, continue one, or stack a new one on it.
    FinetuneLoraParams {
        /// Peak learning rate.
        default learning_rate: f64 = 2e-4, float_above(0.0, 10.0), Training;
        /// LoRA scaling: the adapter's output is multiplied by lora_alpha / lora_rank.
        unset lora_alpha: u32 = 0, int(1, 1_000_000), Lora, else lora_defaults::ALPHA;
        /// Dropout on the adapter's input.
        unset lora_dropout: Option<f64> = None, float(0.0, 0.99), Lora, else lora_defaults::DROPOUT;
        /// Existing adapter to start from: a folder or a session's step.
        unset checkpoint_lora: PathBuf = PathBuf::new(), ParamType::Adapter, Lora;
        /// How to use checkpoint_lora: continue trains that adapter further; stack freezes it, keeps it active and trains a new adapter on top.
        default checkpoint_mode: String = "continue".to_string(), ParamType::Choice(&["continue", "stack"]), Lora;
        /// With checkpoint_lora: how many rows of each earlier stage's data set the loss is measured on, before and after training, to show what is forgotten. They are spread evenly over the data set. 0 measures nothing.
        default forgetting_rows: u32 = 1000, int(0, 1_000_000_000), Evaluation;
        /// Divide lora_alpha by the square root of the rank instead of the rank (rsLoRA, arXiv 2312.03732).
        unset use_rslora: Option<bool> = None, ParamType::Bool, Lora, else false;
        /// Train the direction and the magnitude of each weight separately (DoRA, arXiv 2402.09353).
        unset use_dora: Option<bool> = None, ParamType::Bool, Lora, else false;
        /// Learning rate of the LoRA B matrices as a multiple of learning_rate (LoRA+, arXiv 2402.12354), for example 16. If unset: the same rate for A and B.
        unset loraplus_ratio: Option<f64> = None, float(1.0, 10_000.0), Lora;
    }
}

impl FinetuneLoraParams {
    /// The defaults with this data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "finetune_lora",
    function: "finetune_lora",
    about: "Train a LoRA adapter on the frozen model, continue one, or stack a new one on it",
    examples: [
        ("Train an adapter in a session with a name:", "pyrust-nn finetune-lora data.jsonl -m Qwen/Qwen3-0.6B --session s1"),
        (
            "Train it further on other data, in the same session:",
            "pyrust-nn finetune-lora more.jsonl -m Qwen/Qwen3-0.6B --session s1 \\\n      --step more --checkpoint-lora s1/finetune_lora",
        ),
    ],
    input: &MODEL,
    params: FinetuneLoraParams::params,
    script: Some("finetune_lora.py"),
};

/// Trains a LoRA adapter on the frozen model, continues one, or stacks a new one on it.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn finetune_lora(session: &str, model: &str, params: &FinetuneLoraParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
