//! What a conversation must be for something to be learned from it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::did_you_mean;

/// The roles that Qwen's chat templates know.
pub const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Other tools' names for them.
const ALIASES: [(&str, &str); 5] =
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("ai", "assistant")];

/// One fault in a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Place in the JSON, such as `[3].messages[1].role`.
    pub path: String,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}, {}: {}", self.line, self.column, self.path, self.text)
    }
}

/// Adds the faults of the conversation whose own text is `item`, a slice of `text`.
pub(super) fn check(index: usize, item: &str, text: &str, problems: &mut Vec<Problem>) {
    let mut fault = |at: &str, path: String, words: String| {
        let (line, column) = place(at, text);
        problems.push(Problem { line, column, path, text: words });
    };
    let root = format!("[{index}]");
    let Some(fields) = object(item) else {
        return fault(item, root, "must be an object with \"messages\"".into());
    };
    let Some(messages) = fields.get("messages") else {
        let near = did_you_mean("messages", fields.keys().map(Cow::as_ref)).map(|near| format!("; is {near:?} meant?"));
        return fault(item, root, format!("has no \"messages\"{}", near.unwrap_or_default()));
    };
    let path = format!("{root}.messages");
    let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(messages.get()) else {
        return fault(messages.get(), path, "must be a list of messages".into());
    };
    if list.is_empty() {
        return fault(messages.get(), path, "is empty; give a user's and an assistant's turn".into());
    }
    let mut answers = false;
    let mut roles_known = true;
    for (i, raw) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(message) = object(raw.get()) else {
            fault(raw.get(), path, "must be an object with \"role\" and \"content\"".into());
            continue;
        };
        let role = match message.get("role").map(|role| (role, serde_json::from_str::<String>(role.get()))) {
            Some((_, Ok(role))) if ROLES.contains(&role.as_str()) => role,
            Some((raw, Ok(role))) => {
                let near = ALIASES.iter().find(|(other, _)| *other == role).map(|(_, ours)| *ours).or_else(|| did_you_mean(&role, ROLES));
                let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                fault(raw.get(), format!("{path}.role"), format!("unknown role {role:?}; must be one of {}{near}", ROLES.join(", ")));
                roles_known = false;
                continue;
            }
            Some((raw, Err(_))) => {
                fault(raw.get(), format!("{path}.role"), format!("must be a text, not {}", sort(raw)));
                continue;
            }
            None => {
                fault(raw.get(), path, "has no \"role\"".into());
                continue;
            }
        };
        answers |= role == "assistant";
        // An assistant that calls a tool may have nothing to say.
        let calls = role == "assistant" && message.contains_key("tool_calls");
        match message.get("content").map(|content| (content, serde_json::from_str::<String>(content.get()))) {
            Some((raw, Ok(content))) if content.trim().is_empty() && !calls => {
                fault(raw.get(), format!("{path}.content"), "is empty; give the turn words or leave it out".into());
            }
            Some((raw, Err(_))) if !(calls && raw.get() == "null") => {
                fault(raw.get(), format!("{path}.content"), format!("must be a text, not {}", sort(raw)));
            }
            None if !calls => fault(raw.get(), path.clone(), "has no \"content\"".into()),
            _ => {}
        }
        if let Some(train) = message.get("train").filter(|train| !matches!(train.get(), "true" | "false")) {
            fault(train.get(), format!("{path}.train"), format!("must be true or false, not {}", sort(train)));
        }
    }
    if !answers && roles_known {
        fault(item, root, "has no assistant turn, so there is nothing to learn; add one or remove the conversation".into());
    }
}

/// A conversation in valid JSON that no value can hold: a number without bounds, lists within lists without end.
pub(super) fn unreadable(index: usize, item: &str, text: &str, cause: &serde_json::Error) -> Problem {
    let (line, column) = place(item, text);
    let words = cause.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    Problem { line, column, path: format!("[{index}]"), text: format!("cannot be read: {words}; remove what is too large or too deep") }
}

fn object(text: &str) -> Option<HashMap<Cow<'_, str>, &RawValue>> {
    text.starts_with('{').then(|| serde_json::from_str(text).ok()).flatten()
}

/// Line and column, from 1, of a slice within its text.
fn place(part: &str, text: &str) -> (usize, usize) {
    let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
    let before = &text[..offset];
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    (line, column)
}

fn sort(raw: &RawValue) -> &'static str {
    if raw.get().starts_with('"') {
        return "a text with half a character (a lone \\ud800 to \\udfff; write the whole pair)";
    }
    serde_json::from_str(raw.get()).map_or("something else", |value| sort_of(&value))
}

/// "a number", "a list", …
pub(super) fn sort_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
