//! Parses a conversation in the messages format in a single pass. It accepts the items in which [`crate::data::parse::diagnostic`] finds no
//! problem and nothing to convert, and gives no reason when it rejects one.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::parse::item_keys::{MEDIA, is_plain_field, is_provenance, train_misspelled};
use crate::data::parse::json::{JsonString, decoded_text};
use crate::data::parse::tool_calls::are_plain;
use crate::data::parse::unique_keys::UniqueKeys;

/// The conversation, or `None` if it has any problem.
pub(crate) fn parse_conversation(item: &str) -> Option<Conversation> {
    serde_json::from_str::<PlainConversation>(item).ok().map(|plain| plain.0)
}

/// The content of a message: a string, null or a list of text parts.
#[derive(Default)]
struct Content(Option<String>);

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
                Ok(Content(Some(text.into())))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Content, S::Error> {
                let mut whole = String::new();
                while let Some(UniqueKeys(part)) = seq.next_element()? {
                    match (part["type"].as_str(), part["text"].as_str()) {
                        (Some("text"), Some(text)) => whole.push_str(text),
                        _ => return Err(Error::custom("not a text part")),
                    }
                }
                Ok(Content(Some(whole)))
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
                        "train" => train.replace(map.next_value::<Option<bool>>()?).is_some(),
                        "loss" | "weight" | "function_call" | "from" | "value" => return Err(Error::custom("to be converted")),
                        _ => {
                            let UniqueKeys(value) = map.next_value()?;
                            let is_flag = value.is_boolean() || value.is_number();
                            let looked_at = !value.is_null() && !is_plain_field(&key.0);
                            if looked_at && (MEDIA.contains(&&*key.0) || train_misspelled(&key.0, is_flag).is_some()) {
                                return Err(Error::custom("a misspelled key, or pictures"));
                            }
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
                let Content(content) = content.unwrap_or_default();
                let given = content.is_some();
                let message = ChatMessage { role, content: content.unwrap_or_default(), train: train.flatten().unwrap_or(true), fields };
                if train.flatten() == Some(true) && role != Role::Assistant {
                    return Err(Error::custom("trains on another role"));
                }
                if let Some(calls) = message.fields.get("tool_calls")
                    && !(role == Role::Assistant && are_plain(calls) && message.has_tool_calls())
                {
                    return Err(Error::custom("calls to be converted"));
                }
                let may_be_blank = message.has_tool_calls() || (given && role == Role::Tool);
                if !may_be_blank && message.content.trim().is_empty() {
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
                let (mut messages, mut seen) = (false, HashSet::new());
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
                        "tools" | "documents" => {
                            let (list, decoded) = parse_tools(map.next_value::<UniqueKeys>()?.0).map_err(wrong)?;
                            if decoded {
                                return Err(Error::custom("to be converted"));
                            }
                            *(if &*key.0 == "tools" { &mut made.tools } else { &mut made.documents }) = list;
                        }
                        "chat_template_kwargs" => {
                            made.chat_template_kwargs = parse_object(map.next_value::<UniqueKeys>()?.0).map_err(wrong)?;
                        }
                        "functions" | "system" | "system_prompt" | "train" | "loss" | "weight" => {
                            if !map.next_value::<UniqueKeys>()?.0.is_null() {
                                return Err(Error::custom("to be converted"));
                            }
                        }
                        name if is_provenance(name) => map.next_value_seed(SkippedValue)?,
                        name => {
                            let UniqueKeys(value) = map.next_value()?;
                            if !value.is_null() {
                                if MEDIA.contains(&name) || train_misspelled(name, value.is_boolean() || value.is_number()).is_some() {
                                    return Err(Error::custom("a misspelled key, or pictures"));
                                }
                                made.remarks.ignore(name);
                            }
                        }
                    }
                    seen.insert(key);
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

/// A list of objects, also as JSON text and with JSON text as its elements; `None` if empty. The flag: whether anything was decoded.
pub(crate) fn parse_tools(value: Value) -> Result<(Option<Value>, bool), WrongType> {
    let decode = |text: &str| decoded_text(text).ok_or(WrongType);
    match value {
        Value::Null => Ok((None, false)),
        Value::String(text) if text.trim().is_empty() => Ok((None, false)),
        Value::String(text) => Ok((parse_tools(decode(&text)?)?.0, true)),
        Value::Array(list) if list.iter().all(Value::is_object) => Ok(((!list.is_empty()).then_some(Value::Array(list)), false)),
        Value::Array(list) if list.iter().all(|one| one.is_object() || one.is_string()) => {
            let decoded = list.into_iter().map(|one| if let Value::String(text) = one { decode(&text) } else { Ok(one) });
            let decoded: Vec<Value> = decoded.collect::<Result<_, _>>()?;
            if decoded.iter().all(Value::is_object) { Ok((Some(Value::Array(decoded)), true)) } else { Err(WrongType) }
        }
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
