//! Several steps in order: `pipeline.toml`, and what is left of one that was interrupted.

pub(crate) mod file;
pub(crate) mod plan;
pub(crate) mod resume;

pub(crate) use file::{FILE, Pipeline};
pub(crate) use plan::Plan;
pub(crate) use resume::remaining;
