//! Reads messages and their contents field by field, and reports all problems. A message is `{"role", "content"}`, or `{"from", "value"}` as in
//! ShareGPT, in any list.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::error::did_you_mean;
use crate::data::parse::conversation::{ChatMessage, Role};
use crate::data::parse::item_keys::{MEDIA, TEXT_ALONE, is_plain_field};
use crate::data::parse::json::{JsonObject, array_elements, check_value, decoded_text, is_empty, join_path, string_value};
use crate::data::parse::problem_collector::ProblemCollector;
use crate::data::parse::remarks::{Remark, Remarks};
use crate::data::parse::tool_calls;
use crate::data::parse::train_flag::read_train;

/// Names that other tools use for the roles.
const ALIASES: [(&str, &str); 5] =
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("ai", "assistant")];

/// ShareGPT's senders, with LLaMA-Factory's and ms-swift's. The flag marks a sender whose value is a call.
const SENDERS: [(&str, Role, bool); 14] = [
    ("human", Role::User, false),
    ("user", Role::User, false),
    ("gpt", Role::Assistant, false),
    ("chatgpt", Role::Assistant, false),
    ("assistant", Role::Assistant, false),
    ("bot", Role::Assistant, false),
    ("model", Role::Assistant, false),
    ("system", Role::System, false),
    ("tool", Role::Tool, false),
    ("observation", Role::Tool, false),
    ("tool_response", Role::Tool, false),
    ("function_response", Role::Tool, false),
    ("function_call", Role::Assistant, true),
    ("tool_call", Role::Assistant, true),
];

/// The elements of a list of messages, which must not be empty.
fn message_list<'a>(raw: &'a RawValue, path: &str, problems: &mut ProblemCollector) -> Option<Vec<&'a RawValue>> {
    let list = array_elements(raw.get());
    match &list {
        None => problems.add(raw.get(), path, "must be a list of messages"),
        Some(list) if list.is_empty() => problems.add(raw.get(), path, "is empty; add a user and an assistant turn"),
        Some(_) => return list,
    }
    None
}

/// The messages of a list, or of JSON text of one; `None` if a role is unknown. `sharegpt`: which key a message without a role lacks.
pub(crate) fn read_messages(
    raw: &RawValue,
    path: &str,
    sharegpt: bool,
    problems: &mut ProblemCollector,
    remarks: &mut Remarks,
) -> Option<Vec<ChatMessage>> {
    if let Some(text) = string_value(raw).filter(|text| text.trim_start().starts_with('[')) {
        return read_json_text(raw, text.trim(), path, sharegpt, problems, remarks);
    }
    let turns = message_list(raw, path, problems)?;
    let turns: Vec<_> =
        turns.into_iter().enumerate().map(|(i, raw)| read_message(raw, &format!("{path}[{i}]"), sharegpt, problems, remarks)).collect();
    let mut messages: Vec<ChatMessage> = Vec::with_capacity(turns.len());
    let mut after_call = false;
    for turn in turns.into_iter().collect::<Option<Vec<(ChatMessage, bool)>>>()? {
        match (turn, messages.last_mut()) {
            ((message, true), Some(last)) if after_call && message.train == last.train => {
                // One answer with several calls, as it is generated.
                let calls = message.fields.get("tool_calls").and_then(Value::as_array).cloned().unwrap_or_default();
                if let Some(Value::Array(all)) = last.fields.get_mut("tool_calls") {
                    all.extend(calls);
                }
                remarks.add(Remark::JoinedCalls);
            }
            ((message, call), _) => {
                after_call = call;
                messages.push(message);
            }
        }
    }
    Some(messages)
}

/// Messages as JSON text. Problems in it have the place of the text, and their path.
fn read_json_text(
    raw: &RawValue,
    text: &str,
    path: &str,
    sharegpt: bool,
    problems: &mut ProblemCollector,
    remarks: &mut Remarks,
) -> Option<Vec<ChatMessage>> {
    let Ok(inner) = serde_json::from_str::<&RawValue>(text) else {
        problems.add(raw.get(), path, "is text that begins like a JSON list of messages, but is not valid JSON");
        return None;
    };
    remarks.add(Remark::DecodedJsonText);
    let mut tell = |_: usize, path: String, what: String| problems.add(raw.get(), path, what);
    let mut inner_problems = ProblemCollector { item: text, tell: &mut tell, count: 0 };
    check_value(inner.get(), path, 0, &mut |at, path, what| inner_problems.add(at, path, what));
    read_messages(inner, path, sharegpt, &mut inner_problems, remarks)
}

/// Role of a message, and whether its content is a call.
fn read_role(
    object: &JsonObject,
    raw: &RawValue,
    path: &str,
    sharegpt: bool,
    problems: &mut ProblemCollector,
    remarks: &mut Remarks,
) -> Option<(Role, bool)> {
    let (key, given) = match (object.get_non_null("role"), object.get_non_null("from")) {
        (Some(role), _) => ("role", role),
        (None, Some(from)) => ("from", from),
        (None, None) if sharegpt => {
            problems.add(raw.get(), path, format!("has no \"from\"{}", misspelled("from", object)));
            return None;
        }
        (None, None) => {
            problems.add(raw.get(), path, format!("has no \"role\"{}", misspelled("role", object)));
            return None;
        }
    };
    let Some(name) = string_value(given) else {
        problems.must_be("a string", given, &join_path(path, key));
        return None;
    };
    if key == "from" {
        if let Some((_, role, call)) = SENDERS.iter().find(|(sender, ..)| *sender == name) {
            return Some((*role, *call));
        }
        let known = SENDERS.map(|(name, ..)| name);
        let near = did_you_mean(&name, known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        problems.add(given.get(), join_path(path, key), format!("unknown sender {name:?}; must be one of {}{near}", known.join(", ")));
        return None;
    }
    let role = match name.as_str() {
        "developer" => Some((Role::System, Remark::DeveloperRole)),
        "function" => Some((Role::Tool, Remark::FunctionRole)),
        _ => None,
    };
    if let Some((role, remark)) = role {
        remarks.add(remark);
        return Some((role, false));
    }
    if let Some(role) = Role::from_name(&name) {
        return Some((role, false));
    }
    // ShareGPT's names of senders, in a list of its kind.
    if sharegpt && let Some((_, role, call)) = SENDERS.iter().find(|(sender, ..)| *sender == name) {
        return Some((*role, *call));
    }
    let near = ALIASES.iter().find(|(other, _)| *other == name).map(|(_, ours)| *ours);
    let near = near.or_else(|| did_you_mean(&name, Role::ALL.map(Role::as_str)));
    let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    let known = Role::ALL.map(Role::as_str).join(", ");
    problems.add(given.get(), join_path(path, key), format!("unknown role {name:?}; must be one of {known}{near}"));
    None
}

/// The question whether a key that is missing is misspelled; empty if no other is similar.
fn misspelled(key: &str, object: &JsonObject) -> String {
    let others = object.names().filter(|name| !is_plain_field(name) && !["role", "content", "from", "value"].contains(name));
    did_you_mean(key, others).map(|near| format!("; is {near:?} misspelled?")).unwrap_or_default()
}

fn read_message(
    raw: &RawValue,
    path: &str,
    sharegpt: bool,
    problems: &mut ProblemCollector,
    remarks: &mut Remarks,
) -> Option<(ChatMessage, bool)> {
    let Some(object) = JsonObject::parse(raw.get()) else {
        let keys = if sharegpt { "\"from\" and \"value\"" } else { "\"role\" and \"content\"" };
        problems.not_an_object(raw.get(), path, format!("must be an object with {keys}"));
        return None;
    };
    let (role, call) = read_role(&object, raw, path, sharegpt, problems, remarks)?;
    let mut message = ChatMessage::new(role, String::new());
    let train = read_train(&object, path, problems);
    message.train = train != Some(false);
    if train == Some(true) && role != Role::Assistant {
        remarks.add(Remark::OthersTrained);
    }
    let from_sender = object.get_non_null("role").is_none();
    let read = ["role", "content", "train", "loss", "weight", "function_call", "tool_calls"];
    let own: &[&str] =
        if from_sender { &["from", "value", "content", "train", "loss", "weight", "function_call", "tool_calls"] } else { &read };
    message.fields = remaining_fields(&object, own);
    for name in MEDIA {
        if let Some(raw) = object.get_non_null(name).filter(|raw| !is_empty(raw)) {
            problems.add(raw.get(), join_path(path, name), TEXT_ALONE);
        }
        drop(message.fields.shift_remove(name));
    }
    let before = problems.count;
    read_calls(&object, path, &mut message, problems, remarks);
    let has_calls = message.has_tool_calls() || problems.count > before;
    let (content_key, content) = match (object.get("content"), object.get("value")) {
        (None, Some(value)) => ("value", Some(value)),
        (content, value) if from_sender && value.is_some() && content.is_none_or(|raw| raw.get() == "null") => ("value", value),
        (content, _) => ("content", content),
    };
    if content_key == "value" {
        message.fields.shift_remove("value");
    }
    let path_of = join_path(path, content_key);
    match content {
        Some(raw) if call => read_call_value(raw, &path_of, &mut message, problems, remarks),
        // A faulty call is reported already.
        None if has_calls => {}
        None => {
            let key = if from_sender || sharegpt { "value" } else { "content" };
            problems.add(raw.get(), path, format!("has no {key:?}{}", misspelled(key, &object)));
        }
        Some(raw) if raw.get() == "null" && has_calls => {}
        Some(raw) => {
            let may_be_blank = has_calls || matches!(role, Role::Tool | Role::System);
            message.content = read_content(raw, &path_of, may_be_blank, problems);
            if role == Role::System && message.content.trim().is_empty() {
                remarks.add(Remark::EmptySystem);
            }
        }
    }
    Some((message, call))
}

/// Reads `tool_calls` and the older `function_call`.
fn read_calls(object: &JsonObject, path: &str, message: &mut ChatMessage, problems: &mut ProblemCollector, remarks: &mut Remarks) {
    let mut add = |key: &str, raw: &RawValue, calls: Result<Vec<Value>, Vec<(String, String)>>| match calls {
        Ok(calls) if calls.is_empty() => {}
        Ok(_) if message.role != Role::Assistant => {
            let what = format!("only an assistant's message calls tools, and this one is {}; remove it", message.role.as_str());
            problems.add(raw.get(), join_path(path, key), what);
        }
        Ok(_) if message.fields.contains_key("tool_calls") => {
            problems.add(raw.get(), join_path(path, key), "is given beside \"tool_calls\"; keep one of them");
        }
        Ok(calls) => drop(message.fields.insert("tool_calls".into(), Value::Array(calls))),
        Err(faults) => {
            for (below, what) in faults {
                problems.add(raw.get(), format!("{}{below}", join_path(path, key)), what);
            }
        }
    };
    if let Some(raw) = object.get_non_null("tool_calls") {
        let value = serde_json::from_str::<Value>(raw.get()).unwrap_or_default();
        let value = match &value {
            Value::String(text) => decoded_text(text).map_or(value, |decoded| {
                remarks.add(Remark::DecodedJsonText);
                decoded
            }),
            _ => value,
        };
        let calls = tool_calls::decoded(value, remarks).map(|calls| match calls {
            Value::Array(calls) => calls,
            _ => Vec::new(),
        });
        add("tool_calls", raw, calls);
    }
    if let Some(raw) = object.get_non_null("function_call") {
        let calls = tool_calls::from_flat(serde_json::from_str(raw.get()).unwrap_or_default(), remarks);
        if calls.is_ok() {
            remarks.add(Remark::FunctionCall);
        }
        add("function_call", raw, calls);
    }
}

/// A value that is a call, or several: JSON text, or the objects themselves.
fn read_call_value(raw: &RawValue, path: &str, message: &mut ChatMessage, problems: &mut ProblemCollector, remarks: &mut Remarks) {
    let value = match string_value(raw) {
        Some(text) => decoded_text(&text),
        None => serde_json::from_str(raw.get()).ok(),
    };
    let value = value.filter(|value| value.is_object() || value.is_array());
    let mut wrong = "must be a call as a JSON string, {\"name\": …, \"arguments\": {…}}, or a list of calls".to_string();
    match value.map(|value| tool_calls::from_flat(value, remarks)) {
        Some(Ok(calls)) => {
            remarks.add(Remark::FunctionCall);
            drop(message.fields.insert("tool_calls".into(), Value::Array(calls)));
            return;
        }
        Some(Err(faults)) => faults.into_iter().for_each(|(below, what)| wrong.push_str(&format!("; {below} {what}"))),
        None => {}
    }
    problems.add(raw.get(), path, wrong);
}

/// All fields that are not null, except these.
fn remaining_fields(object: &JsonObject, except: &[&str]) -> Map<String, Value> {
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
