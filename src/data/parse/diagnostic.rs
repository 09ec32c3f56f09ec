//! Parses one item slowly: reports all its problems, each with offset and path, or returns a conversation if there are none. An item in the
//! messages format comes here only after [`crate::data::parse::fast`] has rejected it.

use serde::de::IgnoredAny;

use crate::data::parse::columns::Layout;
use crate::data::parse::conversation::Conversation;
use crate::data::parse::dataset_format::DatasetFormat;
use crate::data::parse::formats::{read_alpaca, read_chat, read_pair, read_preference, read_text};
use crate::data::parse::item::Item;
use crate::data::parse::json::{JsonObject, check_value};
use crate::data::parse::json_error::{describe, error_offset};
use crate::data::parse::problem_collector::ProblemCollector;

/// Reports every problem of the item with offset, path and message. Returns the conversation if there is none. `answered`: whether an
/// assistant's turn must be there, as in training.
pub(crate) fn parse_conversation(
    item: &[u8],
    root: &str,
    format: DatasetFormat,
    layout: &Layout,
    answered: bool,
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
        Some(object) => read_object(&Item::new(object, text, root, layout), format, answered, &mut problems),
        None => {
            problems.not_an_object(text, root, format!("must be an object with {}", format.keys()));
            None
        }
    };
    if problems.count == 0 && made.is_none() {
        // No item may be dropped silently.
        problems.add(text, root, "cannot be read as a conversation");
    }
    made.filter(|_| problems.count == 0)
}

/// The conversation of an item in a format.
pub(crate) fn read_object(item: &Item, format: DatasetFormat, answered: bool, problems: &mut ProblemCollector) -> Option<Conversation> {
    match format {
        DatasetFormat::Messages => read_chat(item, false, answered, problems),
        DatasetFormat::ShareGpt => read_chat(item, true, answered, problems),
        DatasetFormat::Alpaca => read_alpaca(item, answered, problems),
        DatasetFormat::PromptCompletion => read_pair(item, ["prompt", "completion"], answered, problems),
        DatasetFormat::QuestionAnswer => read_pair(item, ["question", "answer"], answered, problems),
        DatasetFormat::Text => read_text(item, problems),
        DatasetFormat::Preference => read_preference(item, problems),
    }
}
