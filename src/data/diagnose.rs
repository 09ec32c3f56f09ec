//! Reads one item with patience: all its faults, each with line, column and path; and a conversation if there are none. The plain
//! shape comes here only when [`super::fast`] refused it.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::conversation::{Conversation, Message, Role};
use super::fast;
use super::raw::{Members, elements, sort, step, text, walk};
use super::shapes::{self, Shape};
use crate::error::did_you_mean;

/// Other tools' names for the roles.
const ALIASES: [(&str, &str); 5] =
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("ai", "assistant")];

/// Where the faults of one item go: offset in the item, path, words.
pub(super) struct Faults<'a> {
    item: &'a str,
    tell: &'a mut dyn FnMut(usize, String, String),
    count: usize,
}

impl Faults<'_> {
    /// Adds one at a piece of the item.
    pub fn add(&mut self, at: &str, path: impl Into<String>, words: impl Into<String>) {
        let offset = (at.as_ptr() as usize).saturating_sub(self.item.as_ptr() as usize).min(self.item.len());
        self.add_at(offset, path.into(), words.into());
    }

    fn add_at(&mut self, offset: usize, path: String, words: String) {
        self.count += 1;
        (self.tell)(offset, path, words);
    }

    /// Adds that a piece is no object. One that cannot be read has half a character in a key, and [`walk`] has said so.
    pub fn no_object(&mut self, at: &str, path: &str, words: impl Into<String>) {
        if !at.starts_with('{') {
            self.add(at, path, words);
        }
    }

    /// Adds "must be …, not …". A text that is none has half a character, and [`walk`] has said so.
    pub fn must_be(&mut self, what: &str, raw: &RawValue, path: &str) {
        let not = sort(raw);
        if !(not == "a text" && what.starts_with("a text")) {
            self.add(raw.get(), path, format!("must be {what}, not {not}"));
        }
    }
}

/// Tells every fault of the item; the conversation if there is none.
pub(super) fn read(item: &[u8], root: &str, shape: Shape, tell: &mut dyn FnMut(usize, String, String)) -> Option<Conversation> {
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
            Shape::ShareGpt => shapes::share_gpt(&members, text, root, &mut faults),
            Shape::Alpaca => shapes::alpaca(&members, text, root, &mut faults),
            Shape::PromptCompletion => shapes::prompt_completion(&members, text, root, &mut faults),
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

/// serde_json's words without the place; a place first reads better.
pub(super) fn words(cause: &serde_json::Error) -> String {
    let words = cause.to_string();
    words.split(" at line ").next().unwrap_or_default().to_string()
}

fn invalid(text: &str, at: usize, cause: &serde_json::Error) -> Cow<'static, str> {
    let words = words(cause);
    let before = text.as_bytes()[..at].iter().rev().find(|byte| !byte.is_ascii_whitespace());
    if let (Some(b','), Some(b'}' | b']')) = (before, text.as_bytes().get(at)) {
        return "trailing comma; remove it".into();
    }
    if words.starts_with("control character") {
        match text.as_bytes().get(at) {
            Some(b'\n' | b'\r') => return "a line break within a text; write it as \\n, or close the text".into(),
            Some(0) => return "a NUL byte; the file is damaged, or not UTF-8".into(),
            Some(b'\t') => return "a tab within a text; write it as \\t".into(),
            _ => {}
        }
    }
    if text.as_bytes().get(at) == Some(&0) { "a NUL byte; the file is damaged, or not UTF-8".into() } else { words.into() }
}

/// Where the parser stopped.
pub(super) fn offset(text: &[u8], cause: &serde_json::Error) -> usize {
    let line = cause.line().saturating_sub(1);
    let start = if line == 0 { Some(0) } else { memchr::memchr_iter(b'\n', text).nth(line - 1).map(|end| end + 1) };
    // A column counts bytes up to where the parser stands: after the byte it stumbled over, but before a control character.
    let over = usize::from(!words(cause).starts_with("control character"));
    (start.unwrap_or(text.len()) + cause.column()).saturating_sub(over).min(text.len())
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

/// `tools`, `documents` and `chat_template_kwargs` of an item.
pub(super) fn besides(members: &Members, root: &str, faults: &mut Faults) -> Conversation {
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
pub(super) fn answered(messages: Option<&[Message]>, item: &str, root: &str, faults: &mut Faults) {
    if messages.is_some_and(|messages| messages.iter().all(|message| message.role != Role::Assistant)) {
        faults.add(item, root, "has no assistant turn, so there is nothing to learn; add one or remove the conversation");
    }
}

/// The elements of a list that must not be empty.
pub(super) fn turns<'a>(raw: &'a RawValue, path: &str, faults: &mut Faults) -> Option<Vec<&'a RawValue>> {
    let list = elements(raw.get());
    match &list {
        None => faults.add(raw.get(), path, "must be a list of messages"),
        Some(list) if list.is_empty() => faults.add(raw.get(), path, "is empty; give a user's and an assistant's turn"),
        Some(_) => return list,
    }
    None
}

/// The messages of a list, those whose role is known; `None` where one's role is not.
pub(super) fn messages(raw: &RawValue, path: &str, faults: &mut Faults) -> Option<Vec<Message>> {
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
pub(super) fn others(members: &Members, but: &[&str]) -> Map<String, Value> {
    let others = members.0.iter().filter(|(key, raw)| !but.contains(&&*key.0) && raw.get() != "null");
    others.filter_map(|(key, raw)| Some((key.0.to_string(), serde_json::from_str(raw.get()).ok()?))).collect()
}

/// A text, or a list of parts of text; one that is not blank, unless it may be.
pub(super) fn content(raw: &RawValue, path: &str, may_be_blank: bool, faults: &mut Faults) -> String {
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
