//! From a JSON file of conversations to a fine-tuned Qwen model, its quantized and GGUF forms, and their answers.
//!
//! Each function below runs one step: it opens the session, starts Python where it is not running, calls the task's script and
//! writes the summary. See `ARCHITECTURE.md` for how the modules lean on each other.

pub mod api;
pub mod begun;
mod check;
pub mod checkpoints;
pub mod cli;
pub mod data;
mod dataset;
mod embed;
mod embedded;
pub mod environment;
pub mod error;
pub mod estimate;
pub mod files;
pub mod generate;
pub mod gguf;
mod interrupt;
mod kernels;
pub mod logging;
mod module;
pub mod params;
pub mod pipeline;
mod place;
pub mod progress;
pub mod resolve;
pub mod resume;
pub mod run;
pub mod session;
pub mod status;
pub mod summary;
pub mod task;

pub use api::{
    convert_lora_to_gguf, convert_model_to_gguf, finetune_full, finetune_lora, flatten, inference, merge, quantize_model, resume,
    run_pipeline, run_script,
};
pub use check::CheckReport;
pub use dataset::{check_dataset, prepare_dataset};
pub use embed::{pyo3, with_python_env};
pub use params::{
    CheckParams, ConvertLoraToGgufParams, ConvertModelToGgufParams, FinetuneFullParams, FinetuneLoraParams, FlattenParams, InferenceParams,
    MergeParams, PrepareParams, QuantizeModelParams, ScriptParams,
};
pub use session::new_session_id;
pub use status::{get_status, list_sessions};
pub use summary::{Status, Summary, write_summary};
