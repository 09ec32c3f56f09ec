//! Pipelines: several steps in order from `pipeline.toml`, and resuming an interrupted pipeline.

pub(crate) mod execution_plan;
pub(crate) mod open;
pub(crate) mod pipeline_file;
mod recorded_request;
pub(crate) mod resume;
mod withheld;

pub(crate) use execution_plan::ExecutionPlan;
pub(crate) use open::open;
pub(crate) use pipeline_file::FILE;
pub(crate) use resume::remaining;
