//! A conversation, independent of the format of its file.

use serde_json::{Map, Value};

use crate::data::parse::remarks::Remarks;

/// The role of a message. Qwen's chat templates know these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// All roles, in the order in which error messages list them.
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

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    pub role: Role,
    /// Empty if it was absent or null, which is valid only for an assistant message with tool calls.
    pub content: String,
    /// Whether an assistant's turn is trained on; true unless the data says otherwise.
    pub train: bool,
    /// All other fields that are not null, in order: `tool_calls`, `reasoning_content`, `name`, …
    pub fields: Map<String, Value>,
}

impl ChatMessage {
    pub(crate) fn new(role: Role, content: String) -> ChatMessage {
        ChatMessage { role, content, train: true, fields: Map::new() }
    }

    /// Whether it has tool calls, so that its content may be empty.
    pub(crate) fn has_tool_calls(&self) -> bool {
        self.role == Role::Assistant
            && self.fields.get("tool_calls").is_some_and(|calls| calls.as_array().is_none_or(|calls| !calls.is_empty()))
    }

    /// As JSON, with `train` only if it is false.
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

/// How a conversation becomes a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleKind {
    /// The chat template renders the messages.
    #[default]
    Chat,
    /// The only message is the whole text, without a chat template. All of it is trained on.
    PlainText,
    /// The preferred answer of a pair. Only `check` reads it.
    Preference,
}

/// Messages, at least one of them an assistant's, and the other inputs of the chat template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Index in the whole data set, from 0.
    pub index: usize,
    pub kind: SampleKind,
    pub messages: Vec<ChatMessage>,
    /// A list of tool descriptions; `None` if absent, null or empty.
    pub tools: Option<Value>,
    /// A list of documents; `None` if absent, null or empty.
    pub documents: Option<Value>,
    /// Variables for the chat template, such as `enable_thinking`.
    pub chat_template_kwargs: Map<String, Value>,
    /// What was converted or ignored while it was read.
    pub(crate) remarks: Remarks,
}

impl Conversation {
    /// As JSON: `messages` and the other fields that are set.
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("messages".into(), self.messages.iter().map(ChatMessage::to_value).collect());
        let lists = [("tools", &self.tools), ("documents", &self.documents)];
        fields.extend(lists.into_iter().filter_map(|(name, list)| Some((name.to_string(), list.clone()?))));
        if !self.chat_template_kwargs.is_empty() {
            fields.insert("chat_template_kwargs".into(), Value::Object(self.chat_template_kwargs.clone()));
        }
        Value::Object(fields)
    }
}
