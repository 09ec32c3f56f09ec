//! A session as one file, `SESSION.tar.zst`: all files of its folder below its name, before them `manifest.json` with the hash of each file, and
//! `spdx.json`, which lists what the session was made from. Import checks every file against the manifest.

mod export;
mod import;
mod manifest;
mod reading;
mod spdx;
mod verify;

pub use export::Exported;
pub(crate) use export::export_session;
pub(crate) use import::import_session;
pub(crate) use verify::verify_archive;
