//! The formats of a data set, detected by the keys of an item.

use std::fmt;

use serde_json::value::RawValue;

use crate::data::parse::columns::{Layout, Shape};
use crate::data::parse::item::Item;
use crate::data::parse::item_keys::{ANSWERS, QUESTIONS};
use crate::data::parse::json::{JsonObject, array_elements, string_value};

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
    /// A question and an answer under other names, such as `question` and `answer`.
    QuestionAnswer,
    /// `text`: plain text without a chat template.
    Text,
    /// `chosen` and `rejected`, with or without `prompt`.
    Preference,
}

/// What an item's keys say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    Format(DatasetFormat),
    /// Recognized, but of a kind that cannot be trained on.
    Refused(String),
    /// An object whose keys match no format.
    Unknown(Vec<String>),
    /// Not an object.
    Other,
}

impl DatasetFormat {
    /// The format of an item by its keys. `shape` decides if it is not `auto`.
    pub(crate) fn detect(item: &[u8], layout: &Layout) -> Detected {
        if let Some(format) = DatasetFormat::of_shape(layout.shape) {
            return Detected::Format(format);
        }
        let Some((text, object)) = std::str::from_utf8(item).ok().and_then(|text| Some((text, JsonObject::parse(text)?))) else {
            return Detected::Other;
        };
        let item = Item::new(object, text, "", layout);
        let has = |name| item.object.get(name).is_some();
        if (has("prompt") && has("replies")) || has("message_tree_id") || (has("parent_id") && has("text") && has("role")) {
            return Detected::Refused(
                "has trees of messages (OpenAssistant), in which one question has several answers; choose a branch of each tree and write it \
                 as {\"messages\": [...]}"
                    .into(),
            );
        }
        let format = if has("messages") {
            DatasetFormat::Messages
        } else if has("conversations") {
            if first_has_role(item.object.get("conversations")) { DatasetFormat::Messages } else { DatasetFormat::ShareGpt }
        } else if has("chosen") && has("rejected") {
            DatasetFormat::Preference
        } else if has("prompt") && has("completion") && item.get("label").is_some_and(|raw| matches!(raw.get(), "true" | "false")) {
            return Detected::Refused(
                "has prompts, completions and a label for good or bad (preference data for KTO), which training does not support yet; keep the \
                 good ones without the label"
                    .into(),
            );
        } else if has("prompt") && has("completion") {
            DatasetFormat::PromptCompletion
        } else if has("instruction") && has("output") {
            DatasetFormat::Alpaca
        } else if QUESTIONS.iter().any(|key| has(key)) && ANSWERS.iter().any(|key| has(key)) {
            DatasetFormat::QuestionAnswer
        } else if has("text") {
            DatasetFormat::Text
        } else {
            return Detected::Unknown(item.object.names().map(ToString::to_string).collect());
        };
        Detected::Format(format)
    }

    fn of_shape(shape: Shape) -> Option<DatasetFormat> {
        Some(match shape {
            Shape::Auto => return None,
            Shape::Messages => DatasetFormat::Messages,
            Shape::ShareGpt => DatasetFormat::ShareGpt,
            Shape::Alpaca => DatasetFormat::Alpaca,
            Shape::PromptCompletion => DatasetFormat::PromptCompletion,
            Shape::QuestionAnswer => DatasetFormat::QuestionAnswer,
            Shape::Text => DatasetFormat::Text,
            Shape::Preference => DatasetFormat::Preference,
        })
    }

    pub(crate) fn keys(self) -> &'static str {
        match self {
            DatasetFormat::Messages => "\"messages\"",
            DatasetFormat::ShareGpt => "\"conversations\"",
            DatasetFormat::Alpaca => "\"instruction\" and \"output\"",
            DatasetFormat::PromptCompletion => "\"prompt\" and \"completion\"",
            DatasetFormat::QuestionAnswer => "\"question\" and \"answer\"",
            DatasetFormat::Text => "\"text\"",
            DatasetFormat::Preference => "\"chosen\" and \"rejected\"",
        }
    }
}

/// The formats as an error lists them.
pub(crate) const KNOWN: &str = "messages, conversations, instruction and output, prompt and completion, question and answer (also query, \
                                prompt, input, response, output), text, chosen and rejected";

/// Whether the first message of a list, or of JSON text of one, has a role.
fn first_has_role(raw: Option<&RawValue>) -> bool {
    let Some(raw) = raw else { return false };
    let text = string_value(raw);
    let list = text.as_deref().map_or(raw.get(), str::trim);
    let first = array_elements(list).and_then(|list| JsonObject::parse(list.first()?.get()).map(|object| object.get("role").is_some()));
    first == Some(true)
}

impl fmt::Display for DatasetFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DatasetFormat::Messages => "messages",
            DatasetFormat::ShareGpt => "ShareGPT",
            DatasetFormat::Alpaca => "Alpaca",
            DatasetFormat::PromptCompletion => "prompt and completion",
            DatasetFormat::QuestionAnswer => "question and answer",
            DatasetFormat::Text => "plain text",
            DatasetFormat::Preference => "preference pairs",
        })
    }
}
