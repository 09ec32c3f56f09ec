//! JSON looked at piece by piece, each piece with its place: slow, and only where something is wrong or must be converted.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::data::parse::json_error::words;
use crate::data::read::scan::DEEPEST;

/// A text, borrowed where it has no escapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.into())))
            }
        }
        from.deserialize_str(TextVisitor)
    }
}

/// The members of an object in their order, the first of each name; duplicates are faults that [`walk`] finds.
#[derive(Debug)]
pub(crate) struct Members<'a>(pub Vec<(Text<'a>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// `None` if it is no object.
    pub fn of(raw: &'a str) -> Option<Members<'a>> {
        raw.starts_with('{').then(|| serde_json::from_str(raw).ok()).flatten()
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key.0 == name).map(|(_, value)| *value)
    }

    /// What is there and not null.
    pub fn given(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|raw| raw.get() != "null")
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| &*key.0)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(MembersVisitor)
    }
}

/// The elements of a list; `None` if it is none.
pub(crate) fn elements(raw: &str) -> Option<Vec<&RawValue>> {
    raw.starts_with('[').then(|| serde_json::from_str(raw).ok()).flatten()
}

/// A text; `None` if it is none, or has half a character.
pub(crate) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// "a number", "a list", …
pub(crate) fn sort(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A key as it is written in a path.
pub(crate) fn step(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if plain { format!("{path}.{key}") } else { format!("{path}[{key:?}]") }
}

/// Tells every fault that a value in valid JSON may have wherever it stands: a key that stands twice, half a character, a number
/// without bounds, lists within lists without end. `fault` gets the piece, its path and the words.
pub(crate) fn walk<'a>(raw: &'a str, path: &str, depth: usize, fault: &mut dyn FnMut(&'a str, String, String)) {
    const HALF: &str = "half a character (a lone \\ud800 to \\udfff); write the whole pair";
    match raw.as_bytes().first() {
        Some(b'{' | b'[') if depth >= DEEPEST => {
            // The whole path would be hundreds of brackets.
            let begins: String = path.chars().take(60).collect();
            fault(raw, format!("{begins}…"), "cannot be read: recursion limit exceeded; remove what is too deep".into());
        }
        Some(b'{') => {
            let Some(members) = Members::of(raw) else {
                return fault(raw, path.into(), format!("has a key with {HALF}"));
            };
            let mut seen = HashSet::new();
            for (key, value) in members.0 {
                let path = step(path, &key.0);
                walk(value.get(), &path, depth + 1, fault);
                if !seen.insert(key.clone()) {
                    fault(value.get(), path, format!("the key {:?} stands twice in its object; remove one of them", key.0));
                }
            }
        }
        Some(b'[') => {
            for (i, value) in elements(raw).unwrap_or_default().into_iter().enumerate() {
                walk(value.get(), &format!("{path}[{i}]"), depth + 1, fault);
            }
        }
        Some(b'"') => {
            if serde_json::from_str::<Text>(raw).is_err() {
                fault(raw, path.into(), format!("has {HALF}"));
            }
        }
        _ => {
            if let Err(cause) = serde_json::from_str::<Value>(raw) {
                fault(raw, path.into(), format!("cannot be read: {}; remove what is too large", words(&cause)));
            }
        }
    }
}
