//! Reads one item with patience: all its faults, each with line, column and path; and a conversation if there are none. The plain
//! shape comes here only when [`crate::data::parse::fast`] refused it.

use serde::de::IgnoredAny;

use crate::base::error::did_you_mean;
use crate::data::parse::conversation::Conversation;
use crate::data::parse::faults::Faults;
use crate::data::parse::format::Shape;
use crate::data::parse::formats;
use crate::data::parse::json::{Members, step, walk};
use crate::data::parse::json_error::{invalid, offset};
use crate::data::parse::messages::{answered, besides, messages};

/// Tells every fault of the item; the conversation if there is none.
pub(crate) fn read(item: &[u8], root: &str, shape: Shape, tell: &mut dyn FnMut(usize, String, String)) -> Option<Conversation> {
    let text = match std::str::from_utf8(item) {
        Ok(text) => text,
        Err(cause) => {
            tell(cause.valid_up_to(), root.into(), "not UTF-8; save the file as UTF-8".into());
            return None;
        }
    };
    if let Err(cause) = serde_json::from_str::<IgnoredAny>(text) {
        let at = offset(item, &cause);
        tell(at, String::new(), format!("invalid JSON: {}", invalid(text, at, &cause)));
        return None;
    }
    let mut faults = Faults { item: text, tell, count: 0 };
    walk(text, root, 0, &mut |at, path, words| faults.add(at, path, words));
    let made = match Members::of(text) {
        Some(members) => match shape {
            Shape::Messages => messages_shape(&members, text, root, &mut faults),
            Shape::ShareGpt => formats::share_gpt(&members, text, root, &mut faults),
            Shape::Alpaca => formats::alpaca(&members, text, root, &mut faults),
            Shape::PromptCompletion => formats::prompt_completion(&members, text, root, &mut faults),
        },
        None => {
            faults.no_object(text, root, format!("must be an object with {}", shape.keys()));
            None
        }
    };
    if faults.count == 0 && made.is_none() {
        // Nothing may be left out silently.
        faults.add(text, root, "cannot be read as a conversation");
    }
    made.filter(|_| faults.count == 0)
}

fn messages_shape(members: &Members, item: &str, root: &str, faults: &mut Faults) -> Option<Conversation> {
    let Some(raw) = members.get("messages") else {
        let near = did_you_mean("messages", members.names()).map(|near| format!("; is {near:?} meant?"));
        faults.add(item, root, format!("has no \"messages\"{}", near.unwrap_or_default()));
        return None;
    };
    let messages = messages(raw, &step(root, "messages"), faults);
    let mut made = besides(members, root, faults);
    answered(messages.as_deref(), item, root, faults);
    made.messages = messages?;
    Some(made)
}
