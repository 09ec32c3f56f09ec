//! The parameter `add_tokens`: a model's tokenizer with more tokens, as a folder in the cache. Rows are prepared with it, and what is
//! trained gets its files.
//!
//! A new token is matched in every text, as Qwen's own `<think>`: it is not special, and it is matched before the text is normalized.
//! (Format: `AddedVocabulary` of the `tokenizers` library, and `added_tokens_decoder` of transformers' tokenizer_config.json.)

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::base::{cache, error, files, logging};
use crate::data;
use crate::estimate::embedding_rows;

/// The other files that transformers reads a tokenizer from. Of config.json it reads the type of the model.
const OTHER_FILES: [&str; 8] = [
    "config.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
];
const TEMPLATES: &str = "additional_chat_templates";

/// The parts of a tokenizer.json that tell which tokens there are.
#[derive(Deserialize)]
struct KnownTokens<'a> {
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    model: Vocabulary,
}

#[derive(Deserialize)]
struct Vocabulary {
    vocab: HashMap<String, u32>,
}

/// The folder of the tokenizer in `folder` with these tokens: `folder` itself if it has them all. A text that is one token already stays it.
///
/// # Errors
/// Kind `input`: there is no tokenizer.json, it has no vocabulary with ids, or a token is only white space. Kind `io`: the cache cannot be
/// written.
pub(crate) fn with_added_tokens(folder: &Path, tokens: &[String]) -> Result<PathBuf> {
    if tokens.is_empty() {
        return Ok(folder.to_path_buf());
    }
    if let Some(blank) = tokens.iter().find(|token| token.trim().is_empty()) {
        return Err(error::input(format!("add_tokens: {blank:?} is only white space, which every text has; name another token")));
    }
    let path = folder.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).map_err(|cause| {
        error::input(format!(
            "add_tokens: {} cannot be read ({cause}); save the tokenizer with transformers (save_pretrained), which writes it",
            path.display()
        ))
    })?;
    data::check_tokenizer(&path)?;
    let unknown = |cause: serde_json::Error| {
        error::input(format!(
            "add_tokens: {} has no vocabulary with an id for each token ({cause}); use a tokenizer such as Qwen's",
            path.display()
        ))
    };
    let known: KnownTokens<'_> = serde_json::from_str(&text).map_err(unknown)?;
    let mut added: Vec<Map<String, Value>> =
        known.added_tokens.map_or(Ok(Vec::new()), |list| serde_json::from_str(list.get())).map_err(unknown)?;
    let mut ids: HashMap<String, u64> = known.model.vocab.iter().map(|(token, id)| (token.clone(), u64::from(*id))).collect();
    ids.extend(added.iter().filter_map(|token| Some((token.get("content")?.as_str()?.to_string(), token.get("id")?.as_u64()?))));
    let mut next = ids.values().max().map_or(0, |last| last + 1);
    let mut new = BTreeMap::new();
    for token in tokens {
        if let Some(id) = ids.get(token) {
            if !new.contains_key(id) {
                logging::emit_once(log::Level::Info, module_path!(), "", &format!("add_tokens: {token:?} is already token {id}"));
            }
            continue;
        }
        ids.insert(token.clone(), next);
        new.insert(next, token.clone());
        next += 1;
    }
    if new.is_empty() {
        return Ok(folder.to_path_buf());
    }
    added.extend(new.iter().map(|(id, token)| entry(Some(*id), token)));
    let extended = replaced(&text, known.added_tokens, &serde_json::to_string(&added)?);
    write(folder, &new, &extended)
}

/// A token of `added_tokens`, or without its id of `added_tokens_decoder`.
fn entry(id: Option<u64>, token: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(id) = id {
        fields.insert("id".into(), id.into());
    }
    fields.insert("content".into(), token.into());
    for rule in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
        fields.insert(rule.into(), false.into());
    }
    fields
}

/// The text of a tokenizer.json with another list of added tokens; all else stays as it is.
fn replaced(text: &str, list: Option<&RawValue>, with: &str) -> String {
    if let Some(list) = list {
        let start = list.get().as_ptr() as usize - text.as_ptr() as usize;
        return [&text[..start], with, &text[start + list.get().len()..]].concat();
    }
    let start = text.find('{').map_or(0, |brace| brace + 1);
    [&text[..start], "\"added_tokens\": ", with, ", ", &text[start..]].concat()
}

/// Writes the tokenizer beside copies of the other files, which get the new tokens if they list tokens.
fn write(folder: &Path, new: &BTreeMap<u64, String>, tokenizer: &str) -> Result<PathBuf> {
    let mut contents = vec![(PathBuf::from("tokenizer.json"), tokenizer.as_bytes().to_vec())];
    for name in OTHER_FILES {
        let path = folder.join(name);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let bytes = match name {
            "config.json" | "tokenizer_config.json" | "added_tokens.json" => {
                let mut value: Value = serde_json::from_slice(&bytes).map_err(|cause| {
                    error::model(format!("{} is not valid JSON ({cause}); copy or download the model again", path.display()))
                })?;
                extend(name, &mut value, new, embedding_rows(folder));
                serde_json::to_vec_pretty(&value)?
            }
            _ => bytes,
        };
        contents.push((PathBuf::from(name), bytes));
    }
    for template in std::fs::read_dir(folder.join(TEMPLATES)).into_iter().flatten().flatten() {
        contents.push((Path::new(TEMPLATES).join(template.file_name()), std::fs::read(template.path())?));
    }
    contents[1..].sort();
    let digests = contents.iter().map(|(name, bytes)| format!("{} {:x}", name.display(), xxh3_128(bytes)));
    let key = xxh3_128(digests.collect::<Vec<_>>().join("/").as_bytes());
    let parent = cache::folder().join("tokenizers");
    let target = parent.join(format!("{key:032x}-added"));
    while !cache::hold(&target) {
        let place = || format!("the cache {} cannot be written; set PYRUST_NN_CACHE", parent.display());
        let partial = files::beside(&target, &format!("partial-{}", std::process::id()));
        let written = (|| -> Result<()> {
            files::create_folders(&partial.join(TEMPLATES))?;
            for (name, bytes) in &contents {
                files::write_whole(&partial.join(name), bytes)?;
            }
            // Another process may have written the same.
            if target.exists() { Ok(()) } else { files::publish_folder(&partial, &target) }
        })();
        drop(files::remove(&partial));
        written.with_context(place)?;
    }
    Ok(target)
}

/// Adds the tokens to one of the files that know them.
fn extend(name: &str, value: &mut Value, new: &BTreeMap<u64, String>, rows: Option<u32>) {
    match name {
        "config.json" => {
            let last = new.keys().last().copied().unwrap_or(0);
            let rows = u64::from(rows.unwrap_or(0)).max(last + 1);
            let text = if value["text_config"].is_object() { &mut value["text_config"] } else { value };
            text["vocab_size"] = rows.into();
        }
        "tokenizer_config.json" => {
            if let Some(known) = value.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
                known.extend(new.iter().map(|(id, token)| (id.to_string(), Value::Object(entry(None, token)))));
            }
        }
        _ => {
            if let Some(known) = value.as_object_mut() {
                known.extend(new.iter().map(|(id, token)| (token.clone(), json!(id))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_added_tokens_is_replaced_and_nothing_else() {
        for (text, wanted) in [
            (
                r#"{"version": "1.0", "added_tokens": [ {"id": 1} ], "model": {"vocab": {"é": 0}}}"#,
                r#"{"version": "1.0", "added_tokens": [7], "model": {"vocab": {"é": 0}}}"#,
            ),
            (r#"{ "model": {"vocab": {}}}"#, r#"{"added_tokens": [7],  "model": {"vocab": {}}}"#),
        ] {
            let known: KnownTokens<'_> = serde_json::from_str(text).unwrap();
            assert_eq!(replaced(text, known.added_tokens, "[7]"), wanted);
        }
    }

    #[test]
    fn a_configuration_names_the_rows_that_the_tokens_need() {
        let new = BTreeMap::from([(9, "<a>".to_string()), (10, "<b>".to_string())]);
        for (rows, wanted) in [(Some(8), 11), (Some(20), 20), (None, 11)] {
            let mut plain = json!({"vocab_size": 8});
            extend("config.json", &mut plain, &new, rows);
            assert_eq!(plain["vocab_size"], wanted);
            let mut nested = json!({"text_config": {"vocab_size": 8}});
            extend("config.json", &mut nested, &new, rows);
            assert_eq!(nested["text_config"]["vocab_size"], wanted);
        }
        let mut known = json!({"added_tokens_decoder": {"8": {}}});
        extend("tokenizer_config.json", &mut known, &new, None);
        assert_eq!(known["added_tokens_decoder"]["10"]["content"], "<b>");
    }
}
