//! Compares conversations: with their renderings (what the template does not show), and with each other (by hash).

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::data::parse::conversation::{Conversation, Role};
use crate::data::render::rendering::Rendering;
use crate::data::render::template::REASONING;
use crate::data::render::thinking::mentions_thinking;
use crate::data::rows::findings::Unseen;
use crate::data::rows::options::Thinking;

/// What a conversation has that none of its renderings shows.
pub(crate) fn unseen(conversation: &Conversation, renderings: &[Rendering], thinking: Thinking) -> Vec<Unseen> {
    let shown = |text: &str| renderings.iter().any(|rendering| rendering.text.contains(text));
    let mut unseen = Vec::new();
    let name = |call: &Value| call.get("function").unwrap_or(call)["name"].as_str().map(ToString::to_string);
    if let Some(Value::Array(tools)) = &conversation.tools
        && !tools.iter().filter_map(name).all(|name| shown(&name))
    {
        unseen.push(Unseen::Tools);
    }
    let mut note = |what: Unseen, missing: bool| {
        if missing && !unseen.contains(&what) {
            unseen.push(what);
        }
    };
    for message in conversation.messages.iter().filter(|message| message.role == Role::Assistant) {
        if let Some(Value::Array(calls)) = message.fields.get("tool_calls") {
            note(Unseen::ToolCalls, !calls.iter().filter_map(name).all(|name| shown(&name)));
        }
        if !message.train {
            continue;
        }
        let reasoning = REASONING.iter().find_map(|key| message.fields.get(*key)?.as_str());
        if let Some(reasoning) = reasoning.map(str::trim).filter(|reasoning| !reasoning.is_empty() && thinking != Thinking::Drop) {
            note(Unseen::Reasoning, !shown(reasoning));
        }
        if mentions_thinking(&message.content) {
            note(Unseen::Prose, !shown(message.content.trim()));
        }
    }
    unseen
}

/// A hash of everything that determines a conversation's samples. 64 bits: among two million conversations, the probability of a
/// collision is one in ten million.
pub(crate) fn digest(conversation: &Conversation) -> u64 {
    let mut hash = Xxh3::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for message in &conversation.messages {
        field(message.role.as_str().as_bytes());
        field(message.content.as_bytes());
        field(&[u8::from(message.train)]);
        if !message.fields.is_empty() {
            field(&serde_json::to_vec(&message.fields).unwrap_or_default());
        }
    }
    for value in [&conversation.tools, &conversation.documents] {
        field(value.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes());
    }
    field(&[conversation.kind as u8]);
    if !conversation.chat_template_kwargs.is_empty() {
        field(&serde_json::to_vec(&conversation.chat_template_kwargs).unwrap_or_default());
    }
    hash.digest()
}
