//! Verification: proves that a file is the model that it was made from.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

row_params! {
    [adapter_params step_params] {
        /// What was made of the model: a GGUF file, a folder with a model or an adapter, or a session's step.
        required candidate: PathBuf = PathBuf::new(), ParamType::Candidate, Model;
        /// Conversations on which the two models are compared. If unset: a few built-in ones.
        unset dataset_path: Vec<PathBuf> = Vec::new(), ParamType::Paths, Data;
    }
    /// Prove that a GGUF file, a merged, quantized or flattened model is the model that it was made from.
    VerifyParams {
        /// Highest mean divergence (KL, in nats) of the candidate's predictions from the model's. If unset: by the type of the file.
        unset max_kl: Option<f64> = None, float_above(0.0, 1000.0), Evaluation;
        /// Number of tokens on which the predictions are compared.
        default verify_tokens: u32 = 512, int(16, 1_000_000_000), Evaluation;
    }
}

impl VerifyParams {
    /// The defaults with this candidate.
    pub fn new(candidate: impl Into<PathBuf>) -> Self {
        Self { candidate: candidate.into(), ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "verify",
    function: "verify",
    about: "Prove that a file is the model that it was made from",
    examples: [
        ("Prove the GGUF files of a step:", "pyrust-nn verify s1/convert_model_to_gguf -m s1/merge --session s1"),
        ("Prove a merged model, on conversations of your own:", "pyrust-nn verify s1/merge -m s1/finetune_lora --dataset-path data.json"),
    ],
    input: &MODEL,
    params: VerifyParams::params,
    script: Some("verify.py"),
};

/// Proves that a file is the model that it was made from. The proof is the summary's `proof`, and `proof.json` in the step's folder.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`: `proof` if the candidate is not the model.
pub fn verify(session: &str, model: &str, params: &VerifyParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
