//! Parses one item slowly: reports all its problems, each with offset and path, or returns a conversation if there are none. An item in the
//! messages format comes here only after [`crate::data::parse::fast`] has rejected it.

use serde::de::IgnoredAny;

use crate::base::error::did_you_mean;
use crate::data::parse::conversation::Conversation;
use crate::data::parse::dataset_format::DatasetFormat;
use crate::data::parse::json::{JsonObject, check_value, join_path};
use crate::data::parse::json_error::{describe, error_offset};
use crate::data::parse::messages::{read_messages, read_tools_and_documents, require_assistant_turn};
use crate::data::parse::other_formats;
use crate::data::parse::problem_collector::ProblemCollector;

/// Reports every problem of the item with offset, path and message. Returns the conversation if there is none.
pub(crate) fn parse_conversation(
    item: &[u8],
    root: &str,
    shape: DatasetFormat,
    tell: &mut dyn FnMut(usize, String, String),
) -> Option<Conversation> {
    let text = match std::str::from_utf8(item) {
        Ok(text) => text,
        Err(cause) => {
            tell(cause.valid_up_to(), root.into(), "not UTF-8; save the file as UTF-8".into());
            return None;
        }
    };
    if let Err(cause) = serde_json::from_str::<IgnoredAny>(text) {
        let at = error_offset(item, &cause);
        tell(at, String::new(), format!("invalid JSON: {}", describe(text, at, &cause)));
        return None;
    }
    let mut problems = ProblemCollector { item: text, tell, count: 0 };
    check_value(text, root, 0, &mut |at, path, words| problems.add(at, path, words));
    let made = match JsonObject::parse(text) {
        Some(object) => match shape {
            DatasetFormat::Messages => read_messages_format(&object, text, root, &mut problems),
            DatasetFormat::ShareGpt => other_formats::read_sharegpt(&object, text, root, &mut problems),
            DatasetFormat::Alpaca => other_formats::read_alpaca(&object, text, root, &mut problems),
            DatasetFormat::PromptCompletion => other_formats::read_prompt_completion(&object, text, root, &mut problems),
        },
        None => {
            problems.not_an_object(text, root, format!("must be an object with {}", shape.keys()));
            None
        }
    };
    if problems.count == 0 && made.is_none() {
        // No item may be dropped silently.
        problems.add(text, root, "cannot be read as a conversation");
    }
    made.filter(|_| problems.count == 0)
}

fn read_messages_format(object: &JsonObject, item: &str, root: &str, problems: &mut ProblemCollector) -> Option<Conversation> {
    let Some(raw) = object.get("messages") else {
        let near = did_you_mean("messages", object.names()).map(|near| format!("; is {near:?} misspelled?"));
        problems.add(item, root, format!("has no \"messages\"{}", near.unwrap_or_default()));
        return None;
    };
    let messages = read_messages(raw, &join_path(root, "messages"), problems);
    let mut made = read_tools_and_documents(object, root, problems);
    require_assistant_turn(messages.as_deref(), item, root, problems);
    made.messages = messages?;
    Some(made)
}
