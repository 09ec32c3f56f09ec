//! Sessions: the folder `runs/<id>/` with its lock, log, `session.json` and the summaries of its steps.

mod archive;
pub(crate) mod artifact;
mod details;
pub(crate) mod existing_session;
pub(crate) mod folder_identity;
pub(crate) mod hub_names;
pub(crate) mod lock;
pub(crate) mod names;
pub(crate) mod process;
mod progress;
pub(crate) mod record;
mod session_list;
mod session_log;
pub(crate) mod status;
pub(crate) mod step_reference;
pub(crate) mod summary;

pub use archive::Exported;
pub(crate) use archive::{export_session, import_session, verify_archive};
pub(crate) use details::{folder_bytes, working_folder};
pub use names::new_session_id;
pub(crate) use names::{missing_folder, runs_dir};
pub(crate) use process::ProcessGuard;
pub(crate) use progress::StepProgress;
pub(crate) use record::Session;
pub(crate) use session_list::SessionIndex;
pub use session_list::list_sessions;
pub use session_log::get_status;
pub(crate) use session_log::{LogFilter, LogPosition, last_records, log_after, log_end, read_log};
pub(crate) use status::session_state;
pub use status::{SessionState, StepState};
pub use summary::{Status, Summary, write_summary};
