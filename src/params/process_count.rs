//! How many processes train.

use serde::{Serialize, Serializer};

/// A number of processes on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessCount {
    /// One for each GPU, and one on a CPU.
    Auto,
    Exactly(u32),
}

impl From<u32> for ProcessCount {
    fn from(number: u32) -> ProcessCount {
        ProcessCount::Exactly(number)
    }
}

impl Serialize for ProcessCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ProcessCount::Auto => serializer.serialize_str("auto"),
            ProcessCount::Exactly(number) => serializer.serialize_u32(*number),
        }
    }
}
