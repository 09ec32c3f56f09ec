//! The formats of a data set, detected by the keys of an item.

use std::fmt;

use crate::data::parse::json::JsonObject;

/// The format of a data set's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatasetFormat {
    /// `messages` with `role` and `content`.
    Messages,
    /// `conversations` with `from` and `value`, with LLaMA-Factory's senders; optionally `system` and `tools`.
    ShareGpt,
    /// `instruction`, `input`, `output`; optionally `system` and `history`.
    Alpaca,
    /// `prompt` and `completion`, strings or lists of messages, as in TRL. Only the completion is trained on.
    PromptCompletion,
}

impl DatasetFormat {
    /// The format of an item by its keys, if they match one.
    pub(crate) fn detect(item: &[u8]) -> Option<DatasetFormat> {
        let object = JsonObject::parse(std::str::from_utf8(item).ok()?)?;
        let has = |name| object.get(name).is_some();
        if has("messages") {
            Some(DatasetFormat::Messages)
        } else if has("conversations") {
            Some(DatasetFormat::ShareGpt)
        } else if has("instruction") && has("output") {
            Some(DatasetFormat::Alpaca)
        } else if has("prompt") && has("completion") {
            Some(DatasetFormat::PromptCompletion)
        } else {
            None
        }
    }

    pub(crate) fn keys(self) -> &'static str {
        match self {
            DatasetFormat::Messages => "\"messages\"",
            DatasetFormat::ShareGpt => "\"conversations\"",
            DatasetFormat::Alpaca => "\"instruction\" and \"output\"",
            DatasetFormat::PromptCompletion => "\"prompt\" and \"completion\"",
        }
    }
}

impl fmt::Display for DatasetFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DatasetFormat::Messages => "messages",
            DatasetFormat::ShareGpt => "ShareGPT",
            DatasetFormat::Alpaca => "Alpaca",
            DatasetFormat::PromptCompletion => "prompt and completion",
        })
    }
}
