//! What every other part stands on: errors, files, log, progress, signals, time, the carried files. Knows nothing of tasks or sessions.

pub mod assets;
pub mod clock;
pub mod error;
pub mod files;
#[macro_use]
pub mod logging;
pub mod hashes;
pub mod progress;
pub mod signals;
