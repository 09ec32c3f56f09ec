//! A conversation as everything after the reader sees it, whatever shape its file had.

use serde_json::{Map, Value};

/// Who speaks; the roles that Qwen's chat templates know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// All, in the order of messages about them.
    pub const ALL: [Role; 4] = [Role::System, Role::User, Role::Assistant, Role::Tool];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    /// Empty where it was absent or null, which only an assistant that calls tools may do.
    pub content: String,
    /// Whether an assistant's turn is learned; true unless the data say otherwise.
    pub train: bool,
    /// Every other key that is not null, in order: `tool_calls`, `reasoning_content`, `name`, …
    pub fields: Map<String, Value>,
}

impl Message {
    pub(crate) fn new(role: Role, content: String) -> Message {
        Message { role, content, train: true, fields: Map::new() }
    }

    /// Whether it calls a tool, and so may have nothing to say.
    pub(crate) fn calls(&self) -> bool {
        self.role == Role::Assistant
            && self.fields.get("tool_calls").is_some_and(|calls| calls.as_array().is_none_or(|calls| !calls.is_empty()))
    }

    /// As JSON, `train` only where it is false.
    pub(crate) fn to_value(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("role".into(), self.role.as_str().into());
        fields.insert("content".into(), self.content.clone().into());
        if !self.train {
            fields.insert("train".into(), false.into());
        }
        fields.extend(self.fields.clone());
        Value::Object(fields)
    }
}

/// Turns, of which at least one is an assistant's, and what the chat template needs besides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Within the whole data set, from 0.
    pub index: usize,
    pub messages: Vec<Message>,
    /// A list of descriptions; `None` where it was absent, null or empty.
    pub tools: Option<Value>,
    /// A list, likewise.
    pub documents: Option<Value>,
    /// What is handed to the chat template by name, such as `enable_thinking`.
    pub chat_template_kwargs: Map<String, Value>,
}

impl Conversation {
    /// As JSON: `messages`, and what else is there.
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("messages".into(), self.messages.iter().map(Message::to_value).collect());
        let lists = [("tools", &self.tools), ("documents", &self.documents)];
        fields.extend(lists.into_iter().filter_map(|(name, list)| Some((name.to_string(), list.clone()?))));
        if !self.chat_template_kwargs.is_empty() {
            fields.insert("chat_template_kwargs".into(), Value::Object(self.chat_template_kwargs.clone()));
        }
        Value::Object(fields)
    }
}
