//! Conversations, from a file to what is learned.

mod conversation;
mod read;

pub use conversation::{Problem, ROLES};
pub use read::read_conversations;
