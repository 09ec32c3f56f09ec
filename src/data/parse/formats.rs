//! The shapes that other tools give their data, and what becomes of them. A file's shape is known by its first item and holds for
//! all of it.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::base::error::did_you_mean;
use crate::data::parse::conversation::{Conversation, Message, Role};
use crate::data::parse::fast::Checked;
use crate::data::parse::faults::Faults;
use crate::data::parse::json::{Members, elements, step, text};
use crate::data::parse::messages::{answered, besides, content, messages, others, turns};

fn has_no(name: &str, members: &Members, at: &str, path: &str, faults: &mut Faults) {
    let near = did_you_mean(name, members.names()).map(|near| format!("; is {near:?} meant?")).unwrap_or_default();
    faults.add(at, path, format!("has no {name:?}{near}"));
}

/// A text that may be absent, null or empty.
fn optional(name: &str, members: &Members, root: &str, faults: &mut Faults) -> Option<String> {
    let raw = members.given(name)?;
    let given = text(raw);
    if given.is_none() {
        faults.must_be("a text", raw, &step(root, name));
    }
    given.filter(|text| !text.is_empty())
}

/// A text that must be there and say something.
fn required(name: &str, members: &Members, item: &str, root: &str, faults: &mut Faults) -> String {
    match members.get(name) {
        Some(raw) => content(raw, &step(root, name), false, faults),
        None => {
            has_no(name, members, item, root, faults);
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

pub(crate) fn share_gpt(members: &Members, item: &str, root: &str, faults: &mut Faults) -> Option<Conversation> {
    let mut made = besides(members, root, faults);
    let system = optional("system", members, root, faults);
    let Some(raw) = members.get("conversations") else {
        has_no("conversations", members, item, root, faults);
        return None;
    };
    let path = step(root, "conversations");
    let turns = turns(raw, &path, faults)?;
    let turns: Vec<_> = turns.into_iter().enumerate().map(|(i, raw)| sent(raw, &format!("{path}[{i}]"), faults)).collect();
    let turns: Option<Vec<Message>> = turns.into_iter().collect();
    answered(turns.as_deref(), item, root, faults);
    made.messages = turns?;
    // A system message among the turns has precedence.
    if let Some(system) = system
        && made.messages[0].role != Role::System
    {
        made.messages.insert(0, Message::new(Role::System, system));
    }
    Some(made)
}

fn sent(raw: &RawValue, path: &str, faults: &mut Faults) -> Option<Message> {
    let Some(members) = Members::of(raw.get()) else {
        faults.no_object(raw.get(), path, "must be an object with \"from\" and \"value\"");
        return None;
    };
    let Some(from) = members.get("from") else {
        has_no("from", &members, raw.get(), path, faults);
        return None;
    };
    let Some(sender) = text(from) else {
        faults.must_be("a text", from, &step(path, "from"));
        return None;
    };
    let Some((_, role)) = SENDERS.iter().find(|(name, _)| *name == sender) else {
        let known = SENDERS.map(|(name, _)| name);
        let near = did_you_mean(&sender, known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        faults.add(from.get(), step(path, "from"), format!("unknown sender {sender:?}; must be one of {}{near}", known.join(", ")));
        return None;
    };
    let mut message = Message::new(*role, String::new());
    message.fields = others(&members, &["from", "value", "train"]);
    match members.get("train").map(|raw| (raw, raw.get())) {
        Some((_, "true")) | None => {}
        Some((_, "false")) => message.train = false,
        Some((raw, _)) => faults.must_be("true or false", raw, &step(path, "train")),
    }
    let Some(value) = members.get("value") else {
        has_no("value", &members, raw.get(), path, faults);
        return Some(message);
    };
    if sender == "function_call" {
        let calls = text(value).and_then(|text| tool_calls(serde_json::from_str::<Checked>(&text).ok()?.0));
        match calls {
            Some(calls) => drop(message.fields.insert("tool_calls".into(), calls)),
            None => faults.add(
                value.get(),
                step(path, "value"),
                "must be the JSON text of a call, {\"name\": …, \"arguments\": {…}}, or of a list of them",
            ),
        }
    } else {
        message.content = content(value, &step(path, "value"), message.calls(), faults);
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

pub(crate) fn alpaca(members: &Members, item: &str, root: &str, faults: &mut Faults) -> Option<Conversation> {
    let mut made = besides(members, root, faults);
    made.messages.extend(optional("system", members, root, faults).map(|system| Message::new(Role::System, system)));
    if let Some(raw) = members.given("history") {
        history(raw, &step(root, "history"), &mut made.messages, faults);
    }
    let mut question = required("instruction", members, item, root, faults);
    if let Some(input) = optional("input", members, root, faults) {
        question.push('\n');
        question.push_str(&input);
    }
    made.messages.push(Message::new(Role::User, question));
    made.messages.push(Message::new(Role::Assistant, required("output", members, item, root, faults)));
    Some(made)
}

pub(crate) fn history(raw: &RawValue, path: &str, messages: &mut Vec<Message>, faults: &mut Faults) {
    let Some(pairs) = elements(raw.get()) else {
        return faults.must_be("a list of pairs, question and answer", raw, path);
    };
    for (i, pair) in pairs.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        match elements(pair.get()).as_deref() {
            Some([question, answer]) => {
                messages.push(Message::new(Role::User, content(question, &format!("{path}[0]"), false, faults)));
                messages.push(Message::new(Role::Assistant, content(answer, &format!("{path}[1]"), false, faults)));
            }
            _ => faults.add(pair.get(), path, "must be a pair, question and answer"),
        }
    }
}

pub(crate) fn prompt_completion(members: &Members, item: &str, root: &str, faults: &mut Faults) -> Option<Conversation> {
    let mut made = besides(members, root, faults);
    let part = |name: &str, role: Role, faults: &mut Faults| match members.get(name) {
        None => {
            has_no(name, members, item, root, faults);
            None
        }
        Some(raw) if raw.get().starts_with('[') => messages(raw, &step(root, name), faults),
        Some(raw) => Some(vec![Message::new(role, content(raw, &step(root, name), false, faults))]),
    };
    let prompt = part("prompt", Role::User, faults);
    let completion = part("completion", Role::Assistant, faults);
    answered(completion.as_deref(), item, root, faults);
    // The prompt's own answers are an example, not a lesson.
    made.messages = prompt?.into_iter().map(|message| Message { train: false, ..message }).chain(completion?).collect();
    Some(made)
}
