//! All writes of the Rust core. Files and folders are made under a temporary name, synced to disk and renamed; lines are appended in one
//! write. Every change of the file system passes `operation`, where tests can inject errors.

mod folders;
mod lock;
mod operation;
mod write;

pub use folders::{create_folder, create_folders, publish_folder, remove, rename, replace_folder};
pub use lock::LockFile;
#[cfg(test)]
pub(crate) use operation::with_fault;
pub use write::{Replacement, Writer, append_line, beside, is_partial, set_modified_now, sweep_partial, sync, write_json, write_whole};
