//! A conversation of the plain shape in one pass of the parser. It accepts what [`crate::data::parse::diagnostic`] finds no fault with, and only
//! that; it says nothing about why it refuses.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::data::parse::conversation::{Conversation, Message, Role};
use crate::data::parse::json::Text;

/// The conversation, or `None` where anything is wrong with it.
pub(crate) fn conversation(item: &str) -> Option<Conversation> {
    serde_json::from_str::<Plain>(item).ok().map(|plain| plain.0)
}

/// A value whose objects have no key twice.
pub(crate) struct Checked(pub Value);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(CheckedVisitor).map(Checked)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
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
        while let Some(Checked(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Checked(value) = map.next_value()?;
            if members.insert(key, value).is_some() {
                return Err(Error::custom("a key twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

/// The text of a message: a text, null, or a list of parts of text.
#[derive(Default)]
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::default())
            }
            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.into()))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Content, S::Error> {
                let mut whole = String::new();
                while let Some(Checked(part)) = seq.next_element()? {
                    match (part["type"].as_str(), part["text"].as_str()) {
                        (Some("text"), Some(text)) => whole.push_str(text),
                        _ => return Err(Error::custom("another part")),
                    }
                }
                Ok(Content(whole))
            }
        }
        from.deserialize_any(ContentVisitor)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct MessageVisitor;
        impl<'de> Visitor<'de> for MessageVisitor {
            type Value = Message;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a message")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Message, M::Error> {
                let (mut role, mut content, mut train) = (None, None, None);
                let mut fields = Map::new();
                let mut nulls = false;
                while let Some(key) = map.next_key::<Text>()? {
                    let twice = match &*key.0 {
                        "role" => role.replace(map.next_value::<Text>()?).is_some(),
                        "content" => content.replace(map.next_value::<Content>()?).is_some(),
                        "train" => train.replace(map.next_value::<bool>()?).is_some(),
                        _ => {
                            let Checked(value) = map.next_value()?;
                            nulls |= value.is_null();
                            fields.insert(key.0.into_owned(), value).is_some()
                        }
                    };
                    if twice {
                        return Err(Error::custom("a key twice"));
                    }
                }
                if nulls {
                    fields.retain(|_, value| !value.is_null());
                }
                let role = role.and_then(|role| Role::from_name(&role.0)).ok_or_else(|| Error::custom("no role"))?;
                let content = content.unwrap_or_default().0;
                let message = Message { role, content, train: train.unwrap_or(true), fields };
                if message.content.trim().is_empty() && !message.calls() {
                    return Err(Error::custom("no content"));
                }
                Ok(message)
            }
        }
        from.deserialize_map(MessageVisitor)
    }
}

struct Plain(Conversation);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PlainVisitor;
        impl<'de> Visitor<'de> for PlainVisitor {
            type Value = Plain;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a conversation")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Plain, M::Error> {
                let mut made = Conversation::default();
                let (mut messages, mut seen) = (false, Vec::new());
                while let Some(key) = map.next_key::<Text>()? {
                    if &*key.0 == "messages" && !std::mem::replace(&mut messages, true) {
                        made.messages = map.next_value()?;
                        continue;
                    }
                    if &*key.0 == "messages" || seen.contains(&key) {
                        return Err(Error::custom("a key twice"));
                    }
                    let wrong = |_: OtherSort| Error::custom("of another sort");
                    match &*key.0 {
                        "tools" => made.tools = tools(map.next_value::<Checked>()?.0).map_err(wrong)?,
                        "documents" => made.documents = list_of_objects(map.next_value::<Checked>()?.0).map_err(wrong)?,
                        "chat_template_kwargs" => made.chat_template_kwargs = object(map.next_value::<Checked>()?.0).map_err(wrong)?,
                        _ => map.next_value_seed(Ignored)?,
                    }
                    seen.push(key);
                }
                if made.messages.iter().all(|message| message.role != Role::Assistant) {
                    return Err(Error::custom("no answer"));
                }
                Ok(Plain(made))
            }
        }
        from.deserialize_map(PlainVisitor)
    }
}

/// What is not used must be as sound as the rest.
struct Ignored;

impl<'de> DeserializeSeed<'de> for Ignored {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        Checked::deserialize(from).map(drop)
    }
}

/// A value of a sort that does not belong there.
pub(crate) struct OtherSort;

/// A list of descriptions, or the JSON text of one; an empty one is none.
pub(crate) fn tools(value: Value) -> Result<Option<Value>, OtherSort> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => list_of_objects(serde_json::from_str::<Checked>(&text).map_err(|_| OtherSort)?.0),
        other => list_of_objects(other),
    }
}

/// A list of objects; null and an empty one are none.
pub(crate) fn list_of_objects(value: Value) -> Result<Option<Value>, OtherSort> {
    match value {
        Value::Null => Ok(None),
        Value::Array(list) if list.iter().all(Value::is_object) => Ok((!list.is_empty()).then_some(Value::Array(list))),
        _ => Err(OtherSort),
    }
}

/// An object; null is an empty one.
pub(crate) fn object(value: Value) -> Result<Map<String, Value>, OtherSort> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(map) => Ok(map),
        _ => Err(OtherSort),
    }
}
