//! Conversations, from files to what is learned.

mod conversation;
mod diagnose;
mod fast;
mod files;
mod problem;
mod raw;
mod read;
mod scan;
mod shapes;
mod source;
mod split;
#[cfg(test)]
mod tests;

pub use conversation::{Conversation, Message, Role};
pub use files::{digest, expand};
pub use problem::{Problem, Problems};
pub use read::{Batch, Count, Reader, check_files, read_conversations};
pub use shapes::Shape;
