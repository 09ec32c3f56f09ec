//! The result of rendering: text, and the positions of turns in it.

use anyhow::Result;

use crate::data::parse::conversation::{Conversation, Role};

/// The positions of one trained turn in a text, as byte offsets: the end of its prompt, and the span that is trained on.
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
    /// Index of the trained message, if the conversation was split into several samples.
    pub message: Option<usize>,
}

/// The renderings of one conversation.
#[derive(Clone, Debug)]
pub enum Renderings {
    Apart(Vec<Rendering>),
    Nested(NestedRenderings),
}

/// The renderings of a long conversation whose earlier turns the template rewrites: one for each trained turn. Written apart, their size
/// would grow with the square of the conversation's; here each has only what it does not share with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NestedRenderings {
    /// What the last of them sees before its own turn. The others see a beginning of it.
    pub history: String,
    pub rows: Vec<NestedRow>,
}

/// A trained turn after a part of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NestedRow {
    pub message: usize,
    /// The first message that is in `text`.
    pub first: usize,
    /// Bytes of the history that come before. There, and at the beginning of `text`, is a special token, so both are tokenized apart.
    pub shared: usize,
    pub text: String,
    /// Positions in `text`.
    pub turn: Turn,
}

impl NestedRenderings {
    /// A row written out.
    pub fn written_out(&self, row: &NestedRow) -> Rendering {
        Rendering {
            text: format!("{}{}", &self.history[..row.shared], row.text),
            turns: vec![row.turn_in_whole()],
            message: Some(row.message),
        }
    }

    /// Everything that any of them shows, once.
    pub(crate) fn shown(&self) -> Rendering {
        let texts = std::iter::once(self.history.as_str()).chain(self.rows.iter().map(|row| row.text.as_str()));
        Rendering { text: texts.collect(), turns: Vec::new(), message: None }
    }
}

impl NestedRow {
    /// The turn's positions in the whole text.
    pub(crate) fn turn_in_whole(&self) -> Turn {
        let Turn { prompt_end, target_start, target_end } = self.turn;
        let [prompt_end, target_start, target_end] = [prompt_end, target_start, target_end].map(|at| self.shared + at);
        Turn { prompt_end, target_start, target_end }
    }
}

impl Renderings {
    /// All renderings, each with its whole text.
    pub fn written_out(self) -> Vec<Rendering> {
        match self {
            Renderings::Apart(renderings) => renderings,
            Renderings::Nested(nested) => nested.rows.iter().map(|row| nested.written_out(row)).collect(),
        }
    }
}

/// Why a conversation could not be rendered.
#[derive(Debug)]
pub enum RenderError {
    /// No renderer can render it.
    Failed(anyhow::Error),
    /// transformers may be able to.
    Unsupported(String),
}

impl From<anyhow::Error> for RenderError {
    fn from(error: anyhow::Error) -> RenderError {
        RenderError::Failed(error)
    }
}

/// The model's chat template, applied to the first messages of one conversation. It only returns text. The turn finder finds the turns,
/// whether minijinja or transformers applies the template.
pub trait RenderText {
    /// The text of the first `count` messages; with `prompt`, also the header of the next answer. `message` is the message that errors
    /// name; `None` for the whole conversation.
    fn text(&self, count: usize, prompt: bool, message: Option<usize>) -> Result<String, RenderError>;

    /// The text of the first `count` messages and one more message of `role` with the content [`PROBE`].
    fn probe(&self, count: usize, role: Role, message: Option<usize>) -> Result<String, RenderError>;
}

/// The content of a message that is added only to find what the template writes around it.
pub const PROBE: &str = "x";

/// A renderer of conversations: minijinja, or transformers.
pub trait Render: Sync {
    /// One rendering, or one for each trained turn. A conversation without a trained turn has one rendering without turns.
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError>;

    /// The same, where possible in a form whose size is that of the conversation.
    fn compact_renderings(&self, conversation: &Conversation) -> Result<Renderings, RenderError> {
        self.renderings(conversation).map(Renderings::Apart)
    }
}

/// `[3]`, or `[3].messages[5]`.
pub fn place(conversation: usize, message: Option<usize>) -> String {
    message.map_or_else(|| format!("[{conversation}]"), |i| format!("[{conversation}].messages[{i}]"))
}
