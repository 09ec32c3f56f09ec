//! The base of all other parts: errors, files, cache, hashes, network, log, secrets, progress, signals, threads, time, embedded files. It knows no tasks and no sessions.

pub mod assets;
pub mod clock;
pub mod error;
pub mod files;
#[macro_use]
pub mod logging;
pub mod cache;
pub mod hashes;
pub(crate) mod lines_from_end;
pub(crate) mod log_file;
pub mod numbers;
pub mod offline;
pub(crate) mod one_of;
pub(crate) mod own_program;
pub mod printable;
pub mod progress;
pub(crate) mod secrets;
pub mod signals;
pub(crate) mod similar_path;
pub(crate) mod size_variable;
pub(crate) mod terminal;
pub mod threads;
