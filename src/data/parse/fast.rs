//! Parses a conversation in the messages format in a single pass. It accepts exactly the items in which [`crate::data::parse::diagnostic`]
//! finds no problem, and gives no reason when it rejects one.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::parse::json::JsonString;

/// The conversation, or `None` if it has any problem.
pub(crate) fn parse_conversation(item: &str) -> Option<Conversation> {
    serde_json::from_str::<PlainConversation>(item).ok().map(|plain| plain.0)
}

/// A value whose objects have no duplicate keys.
pub(crate) struct UniqueKeys(pub Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(UniqueKeysVisitor).map(UniqueKeys)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Value, S::Error> {
        let mut list = Vec::new();
        while let Some(UniqueKeys(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let UniqueKeys(value) = map.next_value()?;
            if object.insert(key, value).is_some() {
                return Err(Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// The content of a message: a string, null or a list of text parts.
#[derive(Default)]
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::default())
            }
            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.into()))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Content, S::Error> {
                let mut whole = String::new();
                while let Some(UniqueKeys(part)) = seq.next_element()? {
                    match (part["type"].as_str(), part["text"].as_str()) {
                        (Some("text"), Some(text)) => whole.push_str(text),
                        _ => return Err(Error::custom("not a text part")),
                    }
                }
                Ok(Content(whole))
            }
        }
        from.deserialize_any(ContentVisitor)
    }
}

impl<'de> Deserialize<'de> for ChatMessage {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct MessageVisitor;
        impl<'de> Visitor<'de> for MessageVisitor {
            type Value = ChatMessage;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a message")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ChatMessage, M::Error> {
                let (mut role, mut content, mut train) = (None, None, None);
                let mut fields = Map::new();
                let mut nulls = false;
                while let Some(key) = map.next_key::<JsonString>()? {
                    let twice = match &*key.0 {
                        "role" => role.replace(map.next_value::<JsonString>()?).is_some(),
                        "content" => content.replace(map.next_value::<Content>()?).is_some(),
                        "train" => train.replace(map.next_value::<bool>()?).is_some(),
                        _ => {
                            let UniqueKeys(value) = map.next_value()?;
                            nulls |= value.is_null();
                            fields.insert(key.0.into_owned(), value).is_some()
                        }
                    };
                    if twice {
                        return Err(Error::custom("duplicate key"));
                    }
                }
                if nulls {
                    fields.retain(|_, value| !value.is_null());
                }
                let role = role.and_then(|role| Role::from_name(&role.0)).ok_or_else(|| Error::custom("no role"))?;
                let content = content.unwrap_or_default().0;
                let message = ChatMessage { role, content, train: train.unwrap_or(true), fields };
                if message.content.trim().is_empty() && !message.has_tool_calls() {
                    return Err(Error::custom("no content"));
                }
                Ok(message)
            }
        }
        from.deserialize_map(MessageVisitor)
    }
}

struct PlainConversation(Conversation);

impl<'de> Deserialize<'de> for PlainConversation {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ConversationVisitor;
        impl<'de> Visitor<'de> for ConversationVisitor {
            type Value = PlainConversation;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a conversation")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<PlainConversation, M::Error> {
                let mut made = Conversation::default();
                let (mut messages, mut seen) = (false, Vec::new());
                while let Some(key) = map.next_key::<JsonString>()? {
                    if &*key.0 == "messages" && !std::mem::replace(&mut messages, true) {
                        made.messages = map.next_value()?;
                        continue;
                    }
                    if &*key.0 == "messages" || seen.contains(&key) {
                        return Err(Error::custom("duplicate key"));
                    }
                    let wrong = |_: WrongType| Error::custom("wrong type");
                    match &*key.0 {
                        "tools" => made.tools = parse_tools(map.next_value::<UniqueKeys>()?.0).map_err(wrong)?,
                        "documents" => made.documents = parse_object_list(map.next_value::<UniqueKeys>()?.0).map_err(wrong)?,
                        "chat_template_kwargs" => {
                            made.chat_template_kwargs = parse_object(map.next_value::<UniqueKeys>()?.0).map_err(wrong)?;
                        }
                        _ => map.next_value_seed(SkippedValue)?,
                    }
                    seen.push(key);
                }
                if made.messages.iter().all(|message| message.role != Role::Assistant) {
                    return Err(Error::custom("no assistant turn"));
                }
                Ok(PlainConversation(made))
            }
        }
        from.deserialize_map(ConversationVisitor)
    }
}

/// A value that is not used. It must still be valid.
struct SkippedValue;

impl<'de> DeserializeSeed<'de> for SkippedValue {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        UniqueKeys::deserialize(from).map(drop)
    }
}

/// The value has the wrong type.
pub(crate) struct WrongType;

/// A list of tool descriptions, or one as a JSON string; `None` if empty.
pub(crate) fn parse_tools(value: Value) -> Result<Option<Value>, WrongType> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => parse_object_list(serde_json::from_str::<UniqueKeys>(&text).map_err(|_| WrongType)?.0),
        other => parse_object_list(other),
    }
}

/// A list of objects; `None` if null or empty.
pub(crate) fn parse_object_list(value: Value) -> Result<Option<Value>, WrongType> {
    match value {
        Value::Null => Ok(None),
        Value::Array(list) if list.iter().all(Value::is_object) => Ok((!list.is_empty()).then_some(Value::Array(list))),
        _ => Err(WrongType),
    }
}

/// An object; null becomes an empty one.
pub(crate) fn parse_object(value: Value) -> Result<Map<String, Value>, WrongType> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(map) => Ok(map),
        _ => Err(WrongType),
    }
}
