//! What is checked in a tokenizer.json before anything is allocated by it: tables have a place for every id up to the last. Also two faults
//! that end the process in the tokenizers library, so that no panic can be caught.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use serde_json::Value;

use crate::base::error;
use crate::data::tokenizer::merge::Merge;

/// The most ids. The largest vocabularies have about a million.
pub(crate) const MAX_IDS: usize = 1 << 22;

#[derive(Deserialize)]
struct Ids {
    #[serde(default)]
    added_tokens: Vec<AddedId>,
    #[serde(default)]
    model: ModelIds,
    #[serde(default)]
    padding: Value,
}

#[derive(Deserialize)]
struct AddedId {
    id: u64,
}

#[derive(Default, Deserialize)]
struct ModelIds {
    #[serde(default)]
    vocab: LastId,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
struct Merges<'a> {
    #[serde(borrow)]
    model: MergesOfModel<'a>,
}

#[derive(Deserialize)]
struct MergesOfModel<'a> {
    #[serde(borrow, default)]
    merges: Vec<Merge<'a>>,
}

/// The largest id of a vocabulary: of a mapping to ids, or the length of a list.
#[derive(Default)]
struct LastId(u64);

impl<'de> Deserialize<'de> for LastId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<LastId, D::Error> {
        struct LastIdVisitor;
        impl<'de> Visitor<'de> for LastIdVisitor {
            type Value = LastId;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a vocabulary")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<LastId, M::Error> {
                let mut last = 0;
                while let Some((_, id)) = map.next_entry::<IgnoredAny, u64>()? {
                    last = last.max(id);
                }
                Ok(LastId(last))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<LastId, S::Error> {
                let mut count = 0;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(LastId(count))
            }
        }
        from.deserialize_any(LastIdVisitor)
    }
}

/// Checks the ids in the text of a `tokenizer.json`. What is wrong with it otherwise is left to whoever reads it.
///
/// # Errors
/// Kind `input`: an id is too large.
pub(crate) fn check_text(path: &Path, text: &str) -> Result<()> {
    let Ok(ids) = serde_json::from_str::<Ids>(text) else { return Ok(()) };
    if ids.padding["strategy"]["Fixed"].as_u64().is_some_and(|length| length > MAX_IDS as u64) {
        return Err(refused(path, "pads every text to millions of tokens"));
    }
    // The library cuts the prefix off without looking.
    if let Some(prefix) = ids.model.continuing_subword_prefix.filter(|prefix| !prefix.is_empty())
        && let Ok(file) = serde_json::from_str::<Merges>(text)
        && file.model.merges.iter().filter_map(Merge::parts).any(|(_, right)| !right.starts_with(&prefix))
    {
        return Err(refused(path, "has a merge whose second token lacks continuing_subword_prefix"));
    }
    check(path, ids.added_tokens.iter().map(|token| token.id).chain([ids.model.vocab.0]))
}

fn refused(path: &Path, why: &str) -> anyhow::Error {
    error::input(format!("the tokenizer {} {why}; use the model's own tokenizer", path.display()))
}

/// Checks ids.
///
/// # Errors
/// Kind `input`: one is too large.
pub(crate) fn check(path: &Path, ids: impl Iterator<Item = u64>) -> Result<()> {
    match ids.max().filter(|last| *last >= MAX_IDS as u64) {
        None => Ok(()),
        Some(last) => Err(error::input(format!(
            "the tokenizer {} has the token id {last}; ids up to {} are read, and no model has more: use the model's own tokenizer",
            path.display(),
            MAX_IDS - 1
        ))),
    }
}

/// Checks the ids of a `tokenizer.json`, if it can be read.
///
/// # Errors
/// Kind `input`: an id is too large.
pub fn check_tokenizer(path: &Path) -> Result<()> {
    std::fs::read_to_string(path).map_or(Ok(()), |text| check_text(path, &text))
}
