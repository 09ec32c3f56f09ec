//! The shape of a data set's items, and the names of its columns.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::data::parse::item_keys::{ALL, ANSWERS, QUESTIONS};

/// The names of the parameter `columns`, and the key that each stands for.
const MEANINGS: [(&str, &str); 12] = [
    ("messages", "messages"),
    ("system", "system"),
    ("user", "prompt"),
    ("input", "input"),
    ("assistant", "completion"),
    ("text", "text"),
    ("chosen", "chosen"),
    ("rejected", "rejected"),
    ("tools", "tools"),
    ("documents", "documents"),
    ("history", "history"),
    ("train", "train"),
];

/// The parameter `shape`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// By the keys of a file's first items.
    #[default]
    Auto,
    Messages,
    #[serde(rename = "sharegpt")]
    ShareGpt,
    Alpaca,
    PromptCompletion,
    QuestionAnswer,
    Text,
    Preference,
}

/// How the items of a data set are to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    #[serde(default)]
    pub shape: Shape,
    /// Meaning and column, such as `user` and `question`.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub columns: BTreeMap<String, String>,
}

impl Layout {
    /// The meaning of a column: its name, or that of `columns`. `None` for a column that another one replaces.
    pub(crate) fn canonical<'a>(&'a self, column: &'a str) -> Option<&'a str> {
        let given = self.columns.iter().find(|(_, theirs)| *theirs == column);
        match given.and_then(|(meaning, _)| MEANINGS.iter().find(|(name, _)| name == meaning)) {
            Some((_, key)) => Some(key),
            None => (!self.is_replaced(column)).then_some(column),
        }
    }

    fn is_replaced(&self, key: &str) -> bool {
        // A question may have several names; its input is another column.
        let also = |meaning: &str| match meaning {
            "user" => key != "input" && QUESTIONS.contains(&key),
            "assistant" => ANSWERS.contains(&key),
            _ => false,
        };
        self.columns.keys().any(|meaning| also(meaning) || MEANINGS.iter().any(|(name, ours)| name == meaning && *ours == key))
    }

    /// The columns that may be read.
    pub(crate) fn known_columns(&self) -> Vec<&str> {
        ALL.into_iter().chain(self.columns.values().map(String::as_str)).collect()
    }

    /// The column that stands for a key.
    pub(crate) fn column<'a>(&'a self, key: &'a str) -> &'a str {
        let meaning = MEANINGS.iter().find(|(_, ours)| *ours == key).map(|(name, _)| *name);
        meaning.and_then(|meaning| self.columns.get(meaning)).map_or(key, String::as_str)
    }
}

fn null_as_empty<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::param_type::{COLUMNS, ParamType, SHAPE};

    #[test]
    fn each_name_has_a_meaning_and_a_replaced_column_has_none() {
        for (name, _) in MEANINGS {
            assert!(COLUMNS.accept(serde_json::json!({name: "x"})).is_some(), "{name}");
        }
        let ParamType::Choice(shapes) = SHAPE else { panic!("a choice") };
        for shape in shapes {
            assert!(serde_json::from_value::<Shape>((*shape).into()).is_ok(), "{shape}");
        }
        let layout = Layout { columns: BTreeMap::from([("user".into(), "q".into())]), ..Layout::default() };
        assert_eq!((layout.canonical("q"), layout.canonical("prompt"), layout.canonical("id")), (Some("prompt"), None, Some("id")));
        assert_eq!((layout.column("prompt"), layout.column("completion")), ("q", "completion"));
    }
}
