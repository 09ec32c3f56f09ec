//! Fine-tunes Qwen models on JSON files of conversations, quantizes them, converts them to GGUF and runs inference.
//!
//! Each task is a function that runs one step: it opens the session, starts Python if needed, calls the task's script and writes the
//! summary. `ARCHITECTURE.md` describes the parts and their dependencies.

#[macro_use]
mod base;
#[macro_use]
mod params;
mod adapter;
mod api;
mod board;
mod cli;
mod data;
mod dataset;
mod estimate;
mod gguf;
mod kernels;
mod native;
mod pipeline;
mod python;
mod reference;
mod report;
mod serve;
mod session;
mod step;
mod tasks;

pub use api::{export_session, import_session, reproduce, resume, resume_with_secrets, run_pipeline, with_python_env};
pub use base::cache::{CacheContent, CacheItem, clear_cache, list_cache};
pub use base::error;
pub use board::{Board, BoardParams, board};
pub use cli::{capture_output, process, set_console};
pub use data::Prepared;
pub use dataset::CheckReport;
pub use params::process_count::ProcessCount;
pub use params::prompt::{Message, Prompt};
pub use pipeline::{ReproducedStep, Reproduction};
pub use python::pyo3;
pub use serve::{ServeParams, Server, serve};
pub use session::{Exported, SessionState, Status, StepState, Summary, get_status, list_sessions, new_session_id, write_summary};
pub use tasks::{
    CheckParams, ComputeImatrixParams, ConvertLoraToGgufParams, ConvertModelToGgufParams, FinetuneFullParams, FinetuneLoraParams,
    FlattenParams, InferenceParams, MergeParams, PrepareParams, QuantizeModelParams, ScriptParams, VerifyParams, check_dataset,
    compute_imatrix, convert_lora_to_gguf, convert_model_to_gguf, finetune_full, finetune_lora, flatten, inference, merge, prepare_dataset,
    quantize_model, run_script, verify,
};
