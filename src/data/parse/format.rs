//! The formats of an item, known by its keys.

use std::fmt;

use crate::data::parse::json::Members;

/// What an item looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `messages` with `role` and `content`.
    Messages,
    /// `conversations` with `from` and `value`, the senders as LLaMA-Factory means them; perhaps `system` and `tools`.
    ShareGpt,
    /// `instruction`, `input`, `output`; perhaps `system` and `history`.
    Alpaca,
    /// `prompt` and `completion`, texts or lists of messages, as TRL has them: the completion alone is learned.
    PromptCompletion,
}

impl Shape {
    /// The shape of an item by its keys, if they tell.
    pub(crate) fn of(item: &[u8]) -> Option<Shape> {
        let members = Members::of(std::str::from_utf8(item).ok()?)?;
        let has = |name| members.get(name).is_some();
        if has("messages") {
            Some(Shape::Messages)
        } else if has("conversations") {
            Some(Shape::ShareGpt)
        } else if has("instruction") && has("output") {
            Some(Shape::Alpaca)
        } else if has("prompt") && has("completion") {
            Some(Shape::PromptCompletion)
        } else {
            None
        }
    }

    pub(crate) fn keys(self) -> &'static str {
        match self {
            Shape::Messages => "\"messages\"",
            Shape::ShareGpt => "\"conversations\"",
            Shape::Alpaca => "\"instruction\" and \"output\"",
            Shape::PromptCompletion => "\"prompt\" and \"completion\"",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Messages => "messages",
            Shape::ShareGpt => "ShareGPT",
            Shape::Alpaca => "Alpaca",
            Shape::PromptCompletion => "prompt and completion",
        })
    }
}
