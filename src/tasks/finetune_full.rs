//! Full fine-tuning: trains every weight of the model.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

finetune_params! {
    [loop_params data_params step_params]
    /// Train every weight of the model.
    FinetuneFullParams {
        /// Peak learning rate.
        default learning_rate: f64 = 2e-5, float_above(0.0, 10.0), Training;
    }
}

impl FinetuneFullParams {
    /// The defaults with this data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "finetune_full",
    function: "finetune_full",
    about: "Train every weight of the model",
    examples: [
        ("Train on the conversations of a file:", "pyrust-nn finetune-full data.jsonl -m Qwen/Qwen3-0.6B"),
        (
            "Evaluate on a tenth of them, and keep the best weights:",
            "pyrust-nn finetune-full data.jsonl -m Qwen/Qwen3-0.6B --eval-split 0.1 \\\n      --load-best-model-at-end",
        ),
    ],
    input: &MODEL,
    params: FinetuneFullParams::params,
    script: Some("finetune_full.py"),
};

/// Trains every weight of the model.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn finetune_full(session: &str, model: &str, params: &FinetuneFullParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
