//! Every write of the Rust core goes through here: whole files and folders are made beside their place, brought to disk and
//! renamed; lines are appended in one write. Each change of the file system passes `operation`, where a test can let it fail.

mod folder;
mod lock;
mod operation;
mod write;

pub use folder::{create_folder, create_folders, publish_folder, remove, rename, replace_folder};
pub use lock::LockFile;
pub use write::{Replacement, Writer, append_line, beside, sync, write_json, write_whole};
