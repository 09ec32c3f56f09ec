//! Computes an importance matrix, with which conversion to GGUF keeps more of a model in few bits.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

row_params! {
    [imatrix_params adapter_params step_params] {
        /// Conversations on which the importance is computed, such as those of the training: files or patterns as for a training.
        required dataset_path: Vec<PathBuf> = Vec::new(), ParamType::Paths, Data;
    }
    /// Compute an importance matrix: how much each column of each matrix matters on your conversations. Conversion to GGUF takes it as imatrix.
    ComputeImatrixParams {
    }
}

impl ComputeImatrixParams {
    /// The defaults with this data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "compute_imatrix",
    function: "compute_imatrix",
    about: "Compute an importance matrix for GGUF files of few bits",
    examples: [
        (
            "On the conversations of the training, for `convert-model-to-gguf --imatrix s1/compute_imatrix`:",
            "pyrust-nn compute-imatrix -m s1/merge -d data.json --session s1",
        ),
        ("On 20,000 tokens of them:", "pyrust-nn compute-imatrix -m s1/merge -d data.json --imatrix-tokens 20000"),
    ],
    input: &MODEL,
    params: ComputeImatrixParams::params,
    script: Some("compute_imatrix.py"),
};

/// Computes an importance matrix. Its file is the step's output `imatrix`.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn compute_imatrix(session: &str, model: &str, params: &ComputeImatrixParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
