//! A merge of a `tokenizer.json`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::data::parse::json::JsonString;

/// `["a", "b"]`, or in older files `"a b"`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Merge<'a> {
    Pair(JsonString<'a>, JsonString<'a>),
    Line(JsonString<'a>),
}

impl Merge<'_> {
    /// The two tokens of a merge; `None` for a line with only one.
    pub(crate) fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Pair(left, right) => Some((&left.0, &right.0)),
            Merge::Line(line) => line.0.split_once(' '),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a pair of tokens")
            }
            fn visit_borrowed_str<E: Error>(self, line: &'de str) -> Result<Merge<'de>, E> {
                Ok(Merge::Line(JsonString(Cow::Borrowed(line))))
            }
            fn visit_str<E: Error>(self, line: &str) -> Result<Merge<'de>, E> {
                Ok(Merge::Line(JsonString(Cow::Owned(line.into()))))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Merge<'de>, S::Error> {
                let mut next = || seq.next_element()?.ok_or_else(|| Error::custom("a merge has two parts"));
                let (left, right) = (next()?, next()?);
                if seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(Error::custom("a merge has two parts"));
                }
                Ok(Merge::Pair(left, right))
            }
        }
        from.deserialize_any(MergeVisitor)
    }
}
