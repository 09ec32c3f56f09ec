//! The base of all other parts: errors, files, hashes, log, progress, signals, time, embedded files. It knows no tasks and no sessions.

pub mod assets;
pub mod clock;
pub mod error;
pub mod files;
#[macro_use]
pub mod logging;
pub mod hashes;
pub mod printable;
pub mod progress;
pub mod signals;
