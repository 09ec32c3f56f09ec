//! All writes of the Rust core. Files and folders are made under a temporary name, synced to disk and renamed; lines are appended in one
//! write. Every change of the file system passes `operation`, where tests can inject errors.

/// Error numbers of a full disk, an exhausted quota and a file beyond the limit of its size.
pub(crate) const EXHAUSTED: [i32; 3] = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];

mod folders;
mod lock;
mod operation;
mod own;
mod reserve;
mod write;

pub use folders::{create_folder, create_folders, publish_folder, remove, rename, replace_folder};
pub use lock::LockFile;
#[cfg(test)]
pub(crate) use operation::with_fault;
pub use own::{make_private, open_own, read_own};
pub(crate) use reserve::Reserve;
pub use write::{Replacement, Writer, append_line, beside, is_partial, set_modified_now, sweep_partial, sync, write_json, write_whole};

/// The device that forgets what is written to it, for reading and writing.
pub(crate) fn open_null() -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")
}
