//! Conversations, from files to what is learned.

mod arrow;
mod cache;
mod conversation;
mod diagnose;
mod engine;
mod fast;
mod files;
mod findings;
mod inspect;
mod lengths;
mod options;
mod prepare;
mod preview;
mod problem;
mod python;
mod raw;
mod read;
mod render;
mod sample;
mod scan;
mod shapes;
mod skeleton;
mod source;
mod split;
mod survey;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use cache::{Prepared, folder as cache_folder};
pub use conversation::{Conversation, Message, Role};
pub use engine::{Dataset, NoTransformers, Transformers, is_native, prepare_dataset};
pub use files::{digest, expand, is_pattern};
pub use findings::TooLong;
pub use inspect::{render_chat, tokenize, tokenize_by_library};
pub use lengths::{Bin, Lengths};
pub use options::{Options, Overlong, Thinking};
pub use prepare::Counts;
pub use preview::{Piece, Preview};
pub use problem::{Problem, Problems};
pub use read::{Batch, Count, Reader, check_files, read_conversations};
pub use render::{Render, RenderError, Rendering, Turn};
pub use shapes::Shape;
pub use survey::{Chosen, Survey, survey};
pub(crate) use tokenizer::{tokenizer_head, vocabulary_and_merges};
