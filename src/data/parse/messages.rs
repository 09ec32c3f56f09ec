//! Messages and their contents, piece by piece, with all their faults.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::error::did_you_mean;
use crate::data::parse::conversation::{Conversation, Message, Role};
use crate::data::parse::fast;
use crate::data::parse::faults::Faults;
use crate::data::parse::json::{Members, elements, step, text};

/// Other tools' names for the roles.
const ALIASES: [(&str, &str); 5] =
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("ai", "assistant")];

/// `tools`, `documents` and `chat_template_kwargs` of an item.
pub(crate) fn besides(members: &Members, root: &str, faults: &mut Faults) -> Conversation {
    let mut made = Conversation::default();
    let value = |name: &str| members.given(name).and_then(|raw| Some((raw, serde_json::from_str::<Value>(raw.get()).ok()?)));
    if let Some((raw, value)) = value("tools") {
        match fast::tools(value) {
            Ok(tools) => made.tools = tools,
            Err(_) => faults.add(raw.get(), step(root, "tools"), "must be a list of objects that describe tools, or the JSON text of one"),
        }
    }
    if let Some((raw, value)) = value("documents") {
        match fast::list_of_objects(value) {
            Ok(documents) => made.documents = documents,
            Err(_) => faults.add(raw.get(), step(root, "documents"), "must be a list of objects"),
        }
    }
    if let Some((raw, value)) = value("chat_template_kwargs") {
        match fast::object(value) {
            Ok(given) => made.chat_template_kwargs = given,
            Err(_) => faults.must_be("an object", raw, &step(root, "chat_template_kwargs")),
        }
    }
    made
}

/// Something must be there to learn; said only where every role is known.
pub(crate) fn answered(messages: Option<&[Message]>, item: &str, root: &str, faults: &mut Faults) {
    if messages.is_some_and(|messages| messages.iter().all(|message| message.role != Role::Assistant)) {
        faults.add(item, root, "has no assistant turn, so there is nothing to learn; add one or remove the conversation");
    }
}

/// The elements of a list that must not be empty.
pub(crate) fn turns<'a>(raw: &'a RawValue, path: &str, faults: &mut Faults) -> Option<Vec<&'a RawValue>> {
    let list = elements(raw.get());
    match &list {
        None => faults.add(raw.get(), path, "must be a list of messages"),
        Some(list) if list.is_empty() => faults.add(raw.get(), path, "is empty; give a user's and an assistant's turn"),
        Some(_) => return list,
    }
    None
}

/// The messages of a list, those whose role is known; `None` where one's role is not.
pub(crate) fn messages(raw: &RawValue, path: &str, faults: &mut Faults) -> Option<Vec<Message>> {
    let turns = turns(raw, path, faults)?;
    let turns: Vec<_> = turns.into_iter().enumerate().map(|(i, raw)| message(raw, &format!("{path}[{i}]"), faults)).collect();
    turns.into_iter().collect()
}

fn message(raw: &RawValue, path: &str, faults: &mut Faults) -> Option<Message> {
    let Some(members) = Members::of(raw.get()) else {
        faults.no_object(raw.get(), path, "must be an object with \"role\" and \"content\"");
        return None;
    };
    let Some(role) = members.get("role") else {
        faults.add(raw.get(), path, "has no \"role\"");
        return None;
    };
    let Some(name) = text(role) else {
        faults.must_be("a text", role, &step(path, "role"));
        return None;
    };
    let Some(role) = Role::from_name(&name) else {
        let near = ALIASES.iter().find(|(other, _)| *other == name).map(|(_, ours)| *ours);
        let near = near.or_else(|| did_you_mean(&name, Role::ALL.map(Role::as_str)));
        let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        let known = Role::ALL.map(Role::as_str).join(", ");
        faults.add(role.get(), step(path, "role"), format!("unknown role {name:?}; must be one of {known}{near}"));
        return None;
    };
    let mut message = Message::new(role, String::new());
    message.fields = others(&members, &["role", "content", "train"]);
    match members.get("train").map(|raw| (raw, raw.get())) {
        Some((_, "true")) | None => {}
        Some((_, "false")) => message.train = false,
        Some((raw, _)) => faults.must_be("true or false", raw, &step(path, "train")),
    }
    match members.get("content") {
        None if message.calls() => {}
        None => faults.add(raw.get(), path, "has no \"content\""),
        Some(raw) if raw.get() == "null" && message.calls() => {}
        Some(raw) => message.content = content(raw, &step(path, "content"), message.calls(), faults),
    }
    Some(message)
}

/// Every member but these that is not null.
pub(crate) fn others(members: &Members, but: &[&str]) -> Map<String, Value> {
    let others = members.0.iter().filter(|(key, raw)| !but.contains(&&*key.0) && raw.get() != "null");
    others.filter_map(|(key, raw)| Some((key.0.to_string(), serde_json::from_str(raw.get()).ok()?))).collect()
}

/// A text, or a list of parts of text; one that is not blank, unless it may be.
pub(crate) fn content(raw: &RawValue, path: &str, may_be_blank: bool, faults: &mut Faults) -> String {
    let whole = match elements(raw.get()) {
        Some(parts) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(i, part)| text_part(part, &format!("{path}[{i}]"), faults)).collect::<Option<String>>()
        }
        None => {
            let whole = text(raw);
            if whole.is_none() {
                faults.must_be("a text", raw, path);
            }
            whole
        }
    };
    if whole.as_deref().is_some_and(|whole| whole.trim().is_empty()) && !may_be_blank {
        faults.add(raw.get(), path, "is empty; give the turn words or leave it out");
    }
    whole.unwrap_or_default()
}

fn text_part(raw: &RawValue, path: &str, faults: &mut Faults) -> Option<String> {
    let members = Members::of(raw.get());
    let kind = members.as_ref().and_then(|members| members.get("type")).and_then(text);
    match (members.as_ref().and_then(|members| members.get("text")), kind.as_deref()) {
        (Some(raw), Some("text")) => {
            let whole = text(raw);
            if whole.is_none() {
                faults.must_be("a text", raw, &step(path, "text"));
            }
            whole
        }
        (_, Some(other)) if other != "text" => {
            faults.add(
                raw.get(),
                path,
                format!("a part of type {other:?} cannot be learned; only {{\"type\": \"text\", \"text\": …}} can"),
            );
            None
        }
        _ => {
            faults.add(raw.get(), path, "must be {\"type\": \"text\", \"text\": …}");
            None
        }
    }
}
