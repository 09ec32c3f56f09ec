//! What rendering gives: texts, and the places of turns in them.

use anyhow::Result;

use crate::data::parse::conversation::{Conversation, Role};

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

/// The model's chat template, applied to the beginnings of one conversation. It gives texts alone; the turns in them are found by the
/// turn finder, whatever applies the template.
pub trait RenderText {
    /// The text of the first `count` messages; with `prompt`, also the header of the next answer. `message` names the message in errors,
    /// `None` the whole conversation.
    fn text(&self, count: usize, prompt: bool, message: Option<usize>) -> Result<String, RenderError>;

    /// The text of the first `count` messages and one more, by `role`, whose content is [`PROBE`].
    fn probe(&self, count: usize, role: Role, message: Option<usize>) -> Result<String, RenderError>;
}

/// The content of a message that is added only to see what the template writes around it.
pub const PROBE: &str = "x";

/// What renders conversations: by minijinja, or by transformers behind the same interface.
pub trait Render: Sync {
    /// One text, or one for each trained turn. A conversation without a trained turn gives one without turns.
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError>;
}

/// `[3]`, or `[3].messages[5]`.
pub fn place(conversation: usize, message: Option<usize>) -> String {
    message.map_or_else(|| format!("[{conversation}]"), |i| format!("[{conversation}].messages[{i}]"))
}
