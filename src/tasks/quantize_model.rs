//! Quantization: writes a smaller copy of a model.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

adapter_params! {
    [proof_params step_params]
    /// Write a smaller copy of the model: 4-bit (nf4 or fp4), 8-bit or 16-bit.
    QuantizeModelParams {
        /// Bits per weight: 4 (bitsandbytes nf4 or fp4), 8 (bitsandbytes int8) or 16 (cast to bf16).
        default bits: u32 = 4, ParamType::IntChoice(&[4, 8, 16]), Output;
        /// The 16 levels of 4 bits: nf4 has them where weights of a normal distribution are dense, fp4 those of a number with 2 bits of exponent. nf4 is more accurate for nearly all models.
        default quant_type: String = "nf4".to_string(), ParamType::Choice(&["nf4", "fp4"]), Output;
        /// Quantize the scales of the 4-bit blocks too, to 8 bits: 4.1 instead of 4.5 bits per weight.
        default double_quant: bool = false, ParamType::Bool, Output;
    }
}

pub(crate) static TASK: Task = Task {
    name: "quantize_model",
    function: "quantize_model",
    about: "Write a smaller copy of the model: 4-bit, 8-bit or 16-bit",
    examples: [
        ("Write a 4-bit copy of a merged model:", "pyrust-nn quantize-model -m s1/merge --session s1"),
        ("Write an 8-bit copy of a model of the Hub:", "pyrust-nn quantize-model -m Qwen/Qwen3-0.6B --bits 8"),
    ],
    input: &MODEL,
    params: QuantizeModelParams::params,
    script: Some("quantize_model.py"),
};

/// Writes a smaller copy of the model.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn quantize_model(session: &str, model: &str, params: &QuantizeModelParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
