//! Converts a model to GGUF.

use crate::gguf::{OUTTYPE, TENSOR_TYPE};
use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

adapter_params! {
    [imatrix_params proof_params step_params]
    /// Convert the model to GGUF files for llama.cpp and Ollama.
    ConvertModelToGgufParams {
        /// Types of the files, as llama-quantize names them, in either case. One file is written for each. In those of 6 bits and fewer, some matrices get more bits.
        default outtype: Vec<String> = vec!["f16".to_string()], OUTTYPE, Output;
        /// Importance matrix: the step compute_imatrix, a file of llama-imatrix, or conversations on which it is computed. It says how much each column of each matrix matters, and makes files of 6 bits and fewer more accurate.
        unset imatrix: PathBuf = PathBuf::new(), ParamType::Imatrix, Output;
        /// Tensor type of the token embedding. If unset: by outtype.
        unset token_embedding_type: String = String::new(), TENSOR_TYPE, Output;
        /// Tensor type of the output matrix. If unset: by outtype.
        unset output_tensor_type: String = String::new(), TENSOR_TYPE, Output;
        /// Tensor types by name: PATTERN=TYPE, such as `ffn_down=q6_k`. The pattern is a regular expression, searched in the tensor's name; the first that matches decides.
        unset tensor_type: Map<String, Value> = Map::new(), ParamType::Object, Output;
    }
}

pub(crate) static TASK: Task = Task {
    name: "convert_model_to_gguf",
    function: "convert_model_to_gguf",
    about: "Convert the model to GGUF for llama.cpp and Ollama",
    examples: [
        ("Convert a merged model for llama.cpp and Ollama:", "pyrust-nn convert-model-to-gguf -m s1/merge --session s1"),
        ("Write two files, one of each type:", "pyrust-nn convert-model-to-gguf -m s1/merge --outtype f16 q8_0"),
    ],
    input: &MODEL,
    params: ConvertModelToGgufParams::params,
    script: Some("convert_model_to_gguf.py"),
};

/// Converts the model to GGUF.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn convert_model_to_gguf(session: &str, model: &str, params: &ConvertModelToGgufParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
