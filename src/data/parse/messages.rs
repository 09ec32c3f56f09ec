//! Reads messages and their contents field by field, and reports all problems.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::error::did_you_mean;
use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::parse::fast;
use crate::data::parse::json::{JsonObject, array_elements, join_path, string_value};
use crate::data::parse::problem_collector::ProblemCollector;

/// Names that other tools use for the roles.
const ALIASES: [(&str, &str); 5] =
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("ai", "assistant")];

/// Reads `tools`, `documents` and `chat_template_kwargs` of an item.
pub(crate) fn read_tools_and_documents(object: &JsonObject, root: &str, problems: &mut ProblemCollector) -> Conversation {
    let mut made = Conversation::default();
    let value = |name: &str| object.get_non_null(name).and_then(|raw| Some((raw, serde_json::from_str::<Value>(raw.get()).ok()?)));
    if let Some((raw, value)) = value("tools") {
        match fast::parse_tools(value) {
            Ok(tools) => made.tools = tools,
            Err(_) => problems.add(
                raw.get(),
                join_path(root, "tools"),
                "must be a list of tool descriptions (objects), or such a list as a JSON string",
            ),
        }
    }
    if let Some((raw, value)) = value("documents") {
        match fast::parse_object_list(value) {
            Ok(documents) => made.documents = documents,
            Err(_) => problems.add(raw.get(), join_path(root, "documents"), "must be a list of objects"),
        }
    }
    if let Some((raw, value)) = value("chat_template_kwargs") {
        match fast::parse_object(value) {
            Ok(given) => made.chat_template_kwargs = given,
            Err(_) => problems.must_be("an object", raw, &join_path(root, "chat_template_kwargs")),
        }
    }
    made
}

/// Reports a conversation without an assistant turn, if every role is known.
pub(crate) fn require_assistant_turn(messages: Option<&[ChatMessage]>, item: &str, root: &str, problems: &mut ProblemCollector) {
    if messages.is_some_and(|messages| messages.iter().all(|message| message.role != Role::Assistant)) {
        problems.add(item, root, "has no assistant turn, so there is nothing to train on; add one or remove the conversation");
    }
}

/// The elements of a list of messages, which must not be empty.
pub(crate) fn message_list<'a>(raw: &'a RawValue, path: &str, problems: &mut ProblemCollector) -> Option<Vec<&'a RawValue>> {
    let list = array_elements(raw.get());
    match &list {
        None => problems.add(raw.get(), path, "must be a list of messages"),
        Some(list) if list.is_empty() => problems.add(raw.get(), path, "is empty; add a user and an assistant turn"),
        Some(_) => return list,
    }
    None
}

/// The messages of a list; `None` if the role of one is unknown.
pub(crate) fn read_messages(raw: &RawValue, path: &str, problems: &mut ProblemCollector) -> Option<Vec<ChatMessage>> {
    let turns = message_list(raw, path, problems)?;
    let turns: Vec<_> = turns.into_iter().enumerate().map(|(i, raw)| read_message(raw, &format!("{path}[{i}]"), problems)).collect();
    turns.into_iter().collect()
}

fn read_message(raw: &RawValue, path: &str, problems: &mut ProblemCollector) -> Option<ChatMessage> {
    let Some(object) = JsonObject::parse(raw.get()) else {
        problems.not_an_object(raw.get(), path, "must be an object with \"role\" and \"content\"");
        return None;
    };
    let Some(role) = object.get("role") else {
        problems.add(raw.get(), path, "has no \"role\"");
        return None;
    };
    let Some(name) = string_value(role) else {
        problems.must_be("a string", role, &join_path(path, "role"));
        return None;
    };
    let Some(role) = Role::from_name(&name) else {
        let near = ALIASES.iter().find(|(other, _)| *other == name).map(|(_, ours)| *ours);
        let near = near.or_else(|| did_you_mean(&name, Role::ALL.map(Role::as_str)));
        let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        let known = Role::ALL.map(Role::as_str).join(", ");
        problems.add(role.get(), join_path(path, "role"), format!("unknown role {name:?}; must be one of {known}{near}"));
        return None;
    };
    let mut message = ChatMessage::new(role, String::new());
    message.fields = remaining_fields(&object, &["role", "content", "train"]);
    match object.get("train").map(|raw| (raw, raw.get())) {
        Some((_, "true")) | None => {}
        Some((_, "false")) => message.train = false,
        Some((raw, _)) => problems.must_be("true or false", raw, &join_path(path, "train")),
    }
    match object.get("content") {
        None if message.has_tool_calls() => {}
        None => problems.add(raw.get(), path, "has no \"content\""),
        Some(raw) if raw.get() == "null" && message.has_tool_calls() => {}
        Some(raw) => message.content = read_content(raw, &join_path(path, "content"), message.has_tool_calls(), problems),
    }
    Some(message)
}

/// All fields that are not null, except these.
pub(crate) fn remaining_fields(object: &JsonObject, except: &[&str]) -> Map<String, Value> {
    let others = object.0.iter().filter(|(key, raw)| !except.contains(&&*key.0) && raw.get() != "null");
    others.filter_map(|(key, raw)| Some((key.0.to_string(), serde_json::from_str(raw.get()).ok()?))).collect()
}

/// Reads content: a string or a list of text parts. It must not be blank, unless `may_be_blank`.
pub(crate) fn read_content(raw: &RawValue, path: &str, may_be_blank: bool, problems: &mut ProblemCollector) -> String {
    let whole = match array_elements(raw.get()) {
        Some(parts) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(i, part)| read_text_part(part, &format!("{path}[{i}]"), problems)).collect::<Option<String>>()
        }
        None => {
            let whole = string_value(raw);
            if whole.is_none() {
                problems.must_be("a string", raw, path);
            }
            whole
        }
    };
    if whole.as_deref().is_some_and(|whole| whole.trim().is_empty()) && !may_be_blank {
        problems.add(raw.get(), path, "is empty; add text or remove the turn");
    }
    whole.unwrap_or_default()
}

fn read_text_part(raw: &RawValue, path: &str, problems: &mut ProblemCollector) -> Option<String> {
    let object = JsonObject::parse(raw.get());
    let kind = object.as_ref().and_then(|object| object.get("type")).and_then(string_value);
    match (object.as_ref().and_then(|object| object.get("text")), kind.as_deref()) {
        (Some(raw), Some("text")) => {
            let whole = string_value(raw);
            if whole.is_none() {
                problems.must_be("a string", raw, &join_path(path, "text"));
            }
            whole
        }
        (_, Some(other)) if other != "text" => {
            problems.add(
                raw.get(),
                path,
                format!("a part of type {other:?} is not supported; only {{\"type\": \"text\", \"text\": …}} is"),
            );
            None
        }
        _ => {
            problems.add(raw.get(), path, "must be {\"type\": \"text\", \"text\": …}");
            None
        }
    }
}
