//! Converts the formats of other tools (ShareGPT, Alpaca, prompt and completion) to conversations. The first item of a file decides the
//! format of the whole file.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::base::error::did_you_mean;
use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::parse::fast::UniqueKeys;
use crate::data::parse::json::{JsonObject, array_elements, join_path, string_value};
use crate::data::parse::messages::{
    message_list, read_content, read_messages, read_tools_and_documents, remaining_fields, require_assistant_turn,
};
use crate::data::parse::problem_collector::ProblemCollector;

/// Reports a missing field, with the nearest name as a suggestion.
fn missing_field(name: &str, object: &JsonObject, at: &str, path: &str, problems: &mut ProblemCollector) {
    let near = did_you_mean(name, object.names()).map(|near| format!("; is {near:?} misspelled?")).unwrap_or_default();
    problems.add(at, path, format!("has no {name:?}{near}"));
}

/// A string that may be absent, null or empty.
fn optional_string(name: &str, object: &JsonObject, root: &str, problems: &mut ProblemCollector) -> Option<String> {
    let raw = object.get_non_null(name)?;
    let given = string_value(raw);
    if given.is_none() {
        problems.must_be("a string", raw, &join_path(root, name));
    }
    given.filter(|text| !text.is_empty())
}

/// Content that must exist and not be blank.
fn required_content(name: &str, object: &JsonObject, item: &str, root: &str, problems: &mut ProblemCollector) -> String {
    match object.get(name) {
        Some(raw) => read_content(raw, &join_path(root, name), false, problems),
        None => {
            missing_field(name, object, item, root, problems);
            String::new()
        }
    }
}

const SENDERS: [(&str, Role); 11] = [
    ("human", Role::User),
    ("user", Role::User),
    ("gpt", Role::Assistant),
    ("chatgpt", Role::Assistant),
    ("assistant", Role::Assistant),
    ("bot", Role::Assistant),
    ("model", Role::Assistant),
    ("system", Role::System),
    ("tool", Role::Tool),
    ("observation", Role::Tool),
    ("function_call", Role::Assistant),
];

pub(crate) fn read_sharegpt(object: &JsonObject, item: &str, root: &str, problems: &mut ProblemCollector) -> Option<Conversation> {
    let mut made = read_tools_and_documents(object, root, problems);
    let system = optional_string("system", object, root, problems);
    let Some(raw) = object.get("conversations") else {
        missing_field("conversations", object, item, root, problems);
        return None;
    };
    let path = join_path(root, "conversations");
    let turns = message_list(raw, &path, problems)?;
    let turns: Vec<_> =
        turns.into_iter().enumerate().map(|(i, raw)| read_sharegpt_message(raw, &format!("{path}[{i}]"), problems)).collect();
    let turns: Option<Vec<ChatMessage>> = turns.into_iter().collect();
    require_assistant_turn(turns.as_deref(), item, root, problems);
    made.messages = turns?;
    // A system message among the turns takes precedence.
    if let Some(system) = system
        && made.messages[0].role != Role::System
    {
        made.messages.insert(0, ChatMessage::new(Role::System, system));
    }
    Some(made)
}

fn read_sharegpt_message(raw: &RawValue, path: &str, problems: &mut ProblemCollector) -> Option<ChatMessage> {
    let Some(object) = JsonObject::parse(raw.get()) else {
        problems.not_an_object(raw.get(), path, "must be an object with \"from\" and \"value\"");
        return None;
    };
    let Some(from) = object.get("from") else {
        missing_field("from", &object, raw.get(), path, problems);
        return None;
    };
    let Some(sender) = string_value(from) else {
        problems.must_be("a string", from, &join_path(path, "from"));
        return None;
    };
    let Some((_, role)) = SENDERS.iter().find(|(name, _)| *name == sender) else {
        let known = SENDERS.map(|(name, _)| name);
        let near = did_you_mean(&sender, known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        problems.add(from.get(), join_path(path, "from"), format!("unknown sender {sender:?}; must be one of {}{near}", known.join(", ")));
        return None;
    };
    let mut message = ChatMessage::new(*role, String::new());
    message.fields = remaining_fields(&object, &["from", "value", "train"]);
    match object.get("train").map(|raw| (raw, raw.get())) {
        Some((_, "true")) | None => {}
        Some((_, "false")) => message.train = false,
        Some((raw, _)) => problems.must_be("true or false", raw, &join_path(path, "train")),
    }
    let Some(value) = object.get("value") else {
        missing_field("value", &object, raw.get(), path, problems);
        return Some(message);
    };
    if sender == "function_call" {
        let calls = string_value(value).and_then(|text| tool_calls(serde_json::from_str::<UniqueKeys>(&text).ok()?.0));
        match calls {
            Some(calls) => drop(message.fields.insert("tool_calls".into(), calls)),
            None => problems.add(
                value.get(),
                join_path(path, "value"),
                "must be a call as a JSON string, {\"name\": …, \"arguments\": {…}}, or a list of calls",
            ),
        }
    } else {
        message.content = read_content(value, &join_path(path, "value"), message.has_tool_calls(), problems);
    }
    Some(message)
}

/// `{"name", "arguments"}`, or a list of them, as a message's `tool_calls`.
fn tool_calls(value: Value) -> Option<Value> {
    let calls = match value {
        Value::Array(calls) if calls.is_empty() => return None,
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let call = |call: Value| {
        let name = call["name"].as_str()?;
        let arguments = call.get("arguments").cloned().unwrap_or_else(|| json!({}));
        Some(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    calls.into_iter().map(call).collect()
}

pub(crate) fn read_alpaca(object: &JsonObject, item: &str, root: &str, problems: &mut ProblemCollector) -> Option<Conversation> {
    let mut made = read_tools_and_documents(object, root, problems);
    made.messages.extend(optional_string("system", object, root, problems).map(|system| ChatMessage::new(Role::System, system)));
    if let Some(raw) = object.get_non_null("history") {
        read_history(raw, &join_path(root, "history"), &mut made.messages, problems);
    }
    let mut question = required_content("instruction", object, item, root, problems);
    if let Some(input) = optional_string("input", object, root, problems) {
        question.push('\n');
        question.push_str(&input);
    }
    made.messages.push(ChatMessage::new(Role::User, question));
    made.messages.push(ChatMessage::new(Role::Assistant, required_content("output", object, item, root, problems)));
    Some(made)
}

pub(crate) fn read_history(raw: &RawValue, path: &str, messages: &mut Vec<ChatMessage>, problems: &mut ProblemCollector) {
    let Some(pairs) = array_elements(raw.get()) else {
        return problems.must_be("a list of pairs, question and answer", raw, path);
    };
    for (i, pair) in pairs.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        match array_elements(pair.get()).as_deref() {
            Some([question, answer]) => {
                messages.push(ChatMessage::new(Role::User, read_content(question, &format!("{path}[0]"), false, problems)));
                messages.push(ChatMessage::new(Role::Assistant, read_content(answer, &format!("{path}[1]"), false, problems)));
            }
            _ => problems.add(pair.get(), path, "must be a pair, question and answer"),
        }
    }
}

pub(crate) fn read_prompt_completion(object: &JsonObject, item: &str, root: &str, problems: &mut ProblemCollector) -> Option<Conversation> {
    let mut made = read_tools_and_documents(object, root, problems);
    let part = |name: &str, role: Role, problems: &mut ProblemCollector| match object.get(name) {
        None => {
            missing_field(name, object, item, root, problems);
            None
        }
        Some(raw) if raw.get().starts_with('[') => read_messages(raw, &join_path(root, name), problems),
        Some(raw) => Some(vec![ChatMessage::new(role, read_content(raw, &join_path(root, name), false, problems))]),
    };
    let prompt = part("prompt", Role::User, problems);
    let completion = part("completion", Role::Assistant, problems);
    require_assistant_turn(completion.as_deref(), item, root, problems);
    // Assistant turns in the prompt are context and not trained on.
    made.messages = prompt?.into_iter().map(|message| ChatMessage { train: false, ..message }).chain(completion?).collect();
    Some(made)
}
