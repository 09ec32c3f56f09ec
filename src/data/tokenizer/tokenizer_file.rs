//! Reads the parts of a `tokenizer.json` that are needed here. (Format: the `tokenizers` library, `Tokenizer::save`.)

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use crate::base::error;
use crate::data::tokenizer::bpe_vocabulary::ParsedBpe;
use crate::data::tokenizer::merge::Merge;
use crate::data::tokenizer::pretokenize::Pattern;
use crate::data::tokenizer::token_ids;

/// A tokenizer.json whose vocabulary has not been parsed yet.
#[derive(Debug)]
pub(crate) struct TokenizerFile {
    pub text: Arc<String>,
    pub digest: u128,
    pub added: Vec<AddedToken>,
    shown: String,
    path: PathBuf,
}

/// An added token, which is matched in text before pre-tokenization.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub content: String,
    pub special: bool,
    #[serde(flatten)]
    pub rules: MatchRules,
}

/// How an added token is matched in text.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct MatchRules {
    pub single_word: bool,
    /// The match includes the whitespace before it.
    pub lstrip: bool,
    /// The match includes the whitespace after it.
    pub rstrip: bool,
    normalized: bool,
}

#[derive(Deserialize)]
struct AddedTokensJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct TokenizerJson<'a> {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    #[serde(borrow)]
    model: BpeModel<'a>,
}

#[derive(Deserialize)]
struct BpeModel<'a> {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// The parts of a `tokenizer.json` other than the vocabulary. The rest is only checked to be valid JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TokenizerHead {
    #[serde(default)]
    added_tokens: Vec<Value>,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

/// Reads the parts other than the vocabulary.
///
/// # Errors
/// Kind `model`: the file cannot be read or is broken.
pub(crate) fn tokenizer_head(path: &Path) -> Result<TokenizerHead> {
    let text = read(path)?;
    token_ids::check_text(path, &text)?;
    serde_json::from_str(&text).map_err(|cause| broken(&path.display().to_string(), &cause))
}

/// The texts of the special tokens.
///
/// # Errors
/// Kind `model`: the file cannot be read or is broken.
pub(crate) fn special_tokens(path: &Path) -> Result<Vec<String>> {
    Ok(TokenizerFile::read(path)?.added.into_iter().filter(|token| token.special).map(|token| token.content).collect())
}

/// Pairs of tokens, by rank.
pub(crate) type MergeList = Vec<(String, String)>;

/// The vocabulary of a byte-level BPE without added tokens, and its merges by rank.
///
/// # Errors
/// Kind `model`: the file cannot be read, is broken, or has no such vocabulary.
pub(crate) fn vocabulary_and_merges(path: &Path) -> Result<(HashMap<String, u32>, MergeList)> {
    let text = read(path)?;
    token_ids::check_text(path, &text)?;
    let body: TokenizerJson = serde_json::from_str(&text).map_err(|cause| broken(&path.display().to_string(), &cause))?;
    let parts = |merge: &Merge| {
        let (left, right) =
            merge.parts().ok_or_else(|| error::model(format!("the tokenizer {} has a merge with only one token", path.display())))?;
        Ok((left.to_string(), right.to_string()))
    };
    Ok((body.model.vocab, body.model.merges.iter().map(parts).collect::<Result<_>>()?))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|cause| {
        error::model(format!("the tokenizer {} cannot be read: {cause}; a model's folder needs tokenizer.json", path.display()))
    })
}

impl TokenizerFile {
    pub(crate) fn read(path: &Path) -> Result<TokenizerFile> {
        let shown = path.display().to_string();
        let text = Arc::new(read(path)?);
        let digest = xxh3_128(text.as_bytes());
        let added = match added_tokens(&text) {
            Some(added) => added,
            None => serde_json::from_str::<AddedTokensJson>(&text).map_err(|cause| broken(&shown, &cause))?.added_tokens,
        };
        token_ids::check(path, added.iter().map(|token| u64::from(token.id)))?;
        Ok(TokenizerFile { text, digest, added, shown, path: path.to_path_buf() })
    }

    /// The vocabulary of a byte-level BPE as in Qwen; `None` for any other tokenizer.
    pub(crate) fn parse(&self) -> Result<Option<ParsedBpe>> {
        token_ids::check_text(&self.path, &self.text)?;
        // The `model` of another tokenizer type may have another form, which is not an error.
        let Ok(body) = serde_json::from_str::<TokenizerJson>(&self.text) else {
            serde_json::from_str::<AddedTokensJson>(&self.text).map_err(|cause| broken(&self.shown, &cause))?;
            return Ok(None);
        };
        let model = &body.model;
        let known = model.kind.as_deref().is_none_or(|kind| kind == "BPE")
            && model.dropout.is_none_or(|dropout| dropout == 0.0)
            && model.continuing_subword_prefix.as_deref().unwrap_or_default().is_empty()
            && model.end_of_word_suffix.as_deref().unwrap_or_default().is_empty()
            && !model.byte_fallback
            && body.normalizer.as_ref().is_some_and(|normalizer| normalizer["type"] == "NFC")
            && self.added.iter().all(|token| token.rules == MatchRules::default());
        let pattern = body.pre_tokenizer.as_ref().and_then(pattern);
        let (true, Some(pattern)) = (known, pattern) else { return Ok(None) };
        let parts = |merge: &Merge| merge.parts().map(|(left, right)| (left.to_string(), right.to_string()));
        let Some(merges) = model.merges.iter().map(parts).collect() else { return Ok(None) };
        Ok(Some(ParsedBpe { pattern, vocabulary: body.model.vocab, merges, ignore_merges: body.model.ignore_merges }))
    }
}

/// The list of added tokens, without parsing the vocabulary after it.
fn added_tokens(text: &str) -> Option<Vec<AddedToken>> {
    let at = text.find("\"added_tokens\"")?;
    // Only small fields come before it. Further back, the match may be an entry of the vocabulary.
    if at > 4096 {
        return None;
    }
    let list = text[at + "\"added_tokens\"".len()..].trim_start().strip_prefix(':')?;
    serde_json::Deserializer::from_str(list).into_iter().next()?.ok()
}

/// `Sequence[Split(pattern, isolated), ByteLevel]`.
fn pattern(pre_tokenizer: &Value) -> Option<Pattern> {
    let [split, bytes] = pre_tokenizer.get("pretokenizers")?.as_array()?.as_slice() else { return None };
    let isolated = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
    let plain = bytes["type"] == "ByteLevel" && bytes["add_prefix_space"] == false && bytes["use_regex"] == false;
    if isolated && plain { Pattern::of(split["pattern"]["Regex"].as_str()?) } else { None }
}

fn broken(shown: &str, cause: &serde_json::Error) -> anyhow::Error {
    error::model(format!("the tokenizer {shown} is broken: {cause}; copy or download it again"))
}
