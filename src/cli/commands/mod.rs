//! The commands, one file each: arguments and implementation. Each `run` returns the exit code.

mod cache;
mod chat;
mod check;
mod compare;
mod completions;
mod dataset;
mod doctor;
mod dry_run;
mod init;
mod man;
mod report;
mod resume;
mod run;
mod run_plan;
mod serve;
mod sessions;
mod setup;
mod status;
mod task;

pub(crate) use cache::CacheArgs;
pub(crate) use chat::ChatArgs;
pub(crate) use compare::CompareArgs;
pub(crate) use completions::CompletionsArgs;
pub(crate) use dataset::DatasetArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use init::InitArgs;
pub(crate) use man::ManArgs;
pub(crate) use report::ReportArgs;
pub(crate) use resume::ResumeArgs;
pub(crate) use run::{RunArgs, pipeline_file};
pub(crate) use serve::ServeArgs;
pub(crate) use sessions::SessionsArgs;
pub(crate) use setup::SetupArgs;
pub(crate) use status::StatusArgs;
pub(crate) use task::TaskArgs;
