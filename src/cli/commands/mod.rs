//! The commands, one file each: their arguments, and what they do. Each `run` gives the exit code.

mod check;
mod dataset;
mod doctor;
mod resume;
mod run;
mod run_plan;
mod sessions;
mod setup;
mod status;
mod task;

pub(crate) use dataset::DatasetArgs;
pub(crate) use doctor::Doctor;
pub(crate) use resume::Resume;
pub(crate) use run::{Run, pipeline_file};
pub(crate) use sessions::Sessions;
pub(crate) use setup::Setup;
pub(crate) use status::StatusArgs;
pub(crate) use task::TaskArgs;
