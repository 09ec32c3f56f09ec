//! Full fine-tuning: every weight of the model is trained.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

finetune_params! {
    [loop_params data_params step_params]
    /// Train every weight of the model.
    FinetuneFullParams {
        /// Peak learning rate.
        default learning_rate: f64 = 2e-5, float_above(0.0, 10.0);
    }
}

impl FinetuneFullParams {
    /// Defaults, and the data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "finetune_full",
    function: "finetune_full",
    about: "Train every weight of the model",
    subject: &MODEL,
    params: FinetuneFullParams::params,
    script: Some("finetune_full.py"),
};

/// Trains every weight of the model.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn finetune_full(session: &str, model: &str, params: &FinetuneFullParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
