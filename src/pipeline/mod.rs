//! Pipelines: several steps in order from `pipeline.toml`, resuming an interrupted pipeline, and reproducing a session.

pub(crate) mod execution_plan;
pub(crate) mod open;
mod pipeline_errors;
pub(crate) mod pipeline_file;
mod recorded_request;
mod reproduce;
pub(crate) mod resume;
mod withheld;

pub(crate) use execution_plan::ExecutionPlan;
pub(crate) use open::open;
pub(crate) use pipeline_file::FILE;
pub use reproduce::{ReproducedStep, Reproduction};
pub(crate) use reproduce::{check, reproduction};
pub(crate) use resume::remaining;
