//! Raw JSON values with their positions. This is slow, and used only for items that have problems or must be converted.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::data::parse::json_error::message_without_position;
use crate::data::read::scanner::MAX_DEPTH;

/// A JSON string, borrowed if it has no escapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(crate) struct JsonString<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonString<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct JsonStringVisitor;
        impl<'de> Visitor<'de> for JsonStringVisitor {
            type Value = JsonString<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<JsonString<'de>, E> {
                Ok(JsonString(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<JsonString<'de>, E> {
                Ok(JsonString(Cow::Owned(text.into())))
            }
        }
        from.deserialize_str(JsonStringVisitor)
    }
}

/// The fields of an object in order. [`check_value`] reports duplicate keys.
#[derive(Debug)]
pub(crate) struct JsonObject<'a>(pub Vec<(JsonString<'a>, &'a RawValue)>);

impl<'a> JsonObject<'a> {
    /// `None` if it is not an object.
    pub fn parse(raw: &'a str) -> Option<JsonObject<'a>> {
        raw.starts_with('{').then(|| serde_json::from_str(raw).ok()).flatten()
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key.0 == name).map(|(_, value)| *value)
    }

    /// The value of a field that exists and is not null.
    pub fn get_non_null(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|raw| raw.get() != "null")
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| &*key.0)
    }
}

impl<'de> Deserialize<'de> for JsonObject<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct JsonObjectVisitor;
        impl<'de> Visitor<'de> for JsonObjectVisitor {
            type Value = JsonObject<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<JsonObject<'de>, M::Error> {
                let mut object = Vec::new();
                while let Some(member) = map.next_entry()? {
                    object.push(member);
                }
                Ok(JsonObject(object))
            }
        }
        from.deserialize_map(JsonObjectVisitor)
    }
}

/// The elements of a list; `None` if it is not a list.
pub(crate) fn array_elements(raw: &str) -> Option<Vec<&RawValue>> {
    raw.starts_with('[').then(|| serde_json::from_str(raw).ok()).flatten()
}

/// The value of a string; `None` if it is not a string, or has an unpaired surrogate.
pub(crate) fn string_value(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// The value of JSON text in a string; `None` if it is not valid or has a problem of [`check_value`].
pub(crate) fn decoded_text(text: &str) -> Option<Value> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let mut problems = 0;
    check_value(raw.get(), "", 0, &mut |_, _, _| problems += 1);
    if problems == 0 { serde_json::from_str(raw.get()).ok() } else { None }
}

/// Whether a value holds nothing: null, false, or an empty list, string or object.
pub(crate) fn is_empty(raw: &RawValue) -> bool {
    match serde_json::from_str(raw.get()) {
        Ok(Value::Null | Value::Bool(false)) => true,
        Ok(Value::Array(items)) => items.is_empty(),
        Ok(Value::String(text)) => text.is_empty(),
        Ok(Value::Object(fields)) => fields.is_empty(),
        _ => false,
    }
}

/// The type of a value for messages: "a number", "a list", …
pub(crate) fn json_type_name(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Appends a key to a path.
pub(crate) fn join_path(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if plain { format!("{path}.{key}") } else { format!("{path}[{key:?}]") }
}

/// Reports the problems that any value in syntactically valid JSON can have: duplicate keys, unpaired surrogates, numbers out of range, too
/// deep nesting. `report` gets the value, its path and the message.
pub(crate) fn check_value<'a>(raw: &'a str, path: &str, depth: usize, report: &mut dyn FnMut(&'a str, String, String)) {
    const UNPAIRED: &str = "an unpaired surrogate (\\ud800 to \\udfff); write the whole pair";
    match raw.as_bytes().first() {
        Some(b'{' | b'[') if depth >= MAX_DEPTH => {
            // The whole path would be hundreds of brackets long.
            let start: String = path.chars().take(60).collect();
            report(raw, format!("{start}…"), "cannot be read: recursion limit exceeded; reduce the nesting".into());
        }
        Some(b'{') => {
            let Some(object) = JsonObject::parse(raw) else {
                return report(raw, path.into(), format!("has a key with {UNPAIRED}"));
            };
            let mut seen = HashSet::new();
            for (key, value) in object.0 {
                let path = join_path(path, &key.0);
                check_value(value.get(), &path, depth + 1, report);
                if !seen.insert(key.clone()) {
                    report(value.get(), path, format!("duplicate key {:?} in this object; remove one of them", key.0));
                }
            }
        }
        Some(b'[') => {
            for (i, value) in array_elements(raw).unwrap_or_default().into_iter().enumerate() {
                check_value(value.get(), &format!("{path}[{i}]"), depth + 1, report);
            }
        }
        Some(b'"') => {
            if serde_json::from_str::<JsonString>(raw).is_err() {
                report(raw, path.into(), format!("has {UNPAIRED}"));
            }
        }
        _ => {
            let digits = raw.strip_prefix('-').unwrap_or(raw);
            if digits.len() > 18
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && raw.parse::<i64>().is_err()
                && raw.parse::<u64>().is_err()
            {
                report(raw, path.into(), "is an integer of more than 64 bits, which would lose digits; write it as a string".into());
            } else if let Err(cause) = serde_json::from_str::<Value>(raw) {
                report(raw, path.into(), format!("cannot be read: {}; write a smaller number", message_without_position(&cause)));
            }
        }
    }
}
