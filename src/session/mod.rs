//! Sessions: the folder `runs/<id>/` with its lock, log, `session.json` and the summaries of its steps.

pub(crate) mod artifact;
mod details;
pub(crate) mod folder_identity;
pub(crate) mod lock;
pub(crate) mod names;
pub(crate) mod process;
pub(crate) mod record;
pub(crate) mod reference;
pub(crate) mod status;
pub(crate) mod summary;

pub(crate) use details::folder_bytes;
pub use names::new_session_id;
pub(crate) use names::runs_dir;
pub(crate) use process::ProcessGuard;
pub(crate) use record::Session;
pub use status::{SessionState, StepState, get_status, list_sessions};
pub(crate) use status::{log_after, log_bytes, read_log, session_state};
pub use summary::{Status, Summary, write_summary};
