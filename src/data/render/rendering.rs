//! What rendering gives: texts, and the places of turns in them.

use anyhow::Result;

use crate::data::parse::conversation::Conversation;

/// The places of one trained turn in a text, as byte offsets: where its prompt ends, and what is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub prompt_end: usize,
    pub target_start: usize,
    pub target_end: usize,
}

/// The text of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    pub text: String,
    pub turns: Vec<Turn>,
    /// The message that it is for, where a conversation became several.
    pub message: Option<usize>,
}

/// Why a conversation could not be rendered.
#[derive(Debug)]
pub enum RenderError {
    /// Nothing can.
    Failed(anyhow::Error),
    /// transformers may.
    Unsupported(String),
}

impl From<anyhow::Error> for RenderError {
    fn from(error: anyhow::Error) -> RenderError {
        RenderError::Failed(error)
    }
}

/// What renders conversations: [`ChatRenderer`], or transformers behind the same interface.
pub trait Render: Sync {
    /// One text, or one for each trained turn. A conversation without a trained turn gives one without turns.
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError>;
}

/// `[3]`, or `[3].messages[5]`.
pub fn place(conversation: usize, message: Option<usize>) -> String {
    message.map_or_else(|| format!("[{conversation}]"), |i| format!("[{conversation}].messages[{i}]"))
}
