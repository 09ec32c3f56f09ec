//! A smaller copy of a model.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

step_params! {
    []
    /// Make a smaller copy of the model: 4-bit (nf4), 8-bit or 16-bit.
    QuantizeModelParams {
        /// Bits per weight: 4 (bitsandbytes nf4), 8 (bitsandbytes int8) or 16 (a cast to bf16).
        default bits: u32 = 4, Kind::IntChoice(&[4, 8, 16]);
    }
}

pub(crate) static TASK: Task = Task {
    name: "quantize_model",
    function: "quantize_model",
    about: "Make a smaller copy of the model: 4-bit, 8-bit or 16-bit",
    subject: &MODEL,
    params: QuantizeModelParams::params,
    script: Some("quantize_model.py"),
};

/// Makes a smaller copy of the model.
///
/// # Errors
/// Those of [`crate::error::Kind`] that the step's `summary.json` names, too.
pub fn quantize_model(session: &str, model: &str, params: &QuantizeModelParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
