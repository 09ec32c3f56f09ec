//! A tokenizer's vocabulary as GGUF metadata, read from its `tokenizer.json` when the header is written. A plan only refers to it.

use anyhow::{Context, Result};

use crate::base::error;
use crate::data;
use crate::gguf::plan::PlannedVocabulary;

/// `llama_token_type` of an ordinary token, and of an id without a token.
const NORMAL: i32 = 1;
const UNUSED: i32 = 5;

/// The tokens of a vocabulary, by id.
#[derive(Debug)]
pub(crate) struct VocabularyTokens {
    pub tokens: Vec<String>,
    /// `llama_token_type` of each token.
    pub types: Vec<i32>,
    /// Pairs of tokens, separated by a space, in order of priority.
    pub merges: Vec<String>,
}

impl VocabularyTokens {
    /// Reads the tokenizer. Ids without a token get `[PAD…]`, as in llama.cpp's converter.
    pub fn read(vocabulary: &PlannedVocabulary) -> Result<VocabularyTokens> {
        let (file, size) = (&vocabulary.tokenizer, vocabulary.size);
        if size > data::MAX_IDS {
            return Err(error::input(format!(
                "the model of the tokenizer {} says that it has {size} tokens; up to {} are converted: correct vocab_size in its config.json",
                file.display(),
                data::MAX_IDS
            )));
        }
        let (known, merges) = data::vocabulary_and_merges(file)?;
        let mut tokens: Vec<Option<(String, i32)>> = vec![None; size];
        let plain = known.into_iter().map(|(token, id)| (id, (token, NORMAL)));
        let added = vocabulary.added.iter().map(|added| (added.id, (added.text.clone(), added.kind)));
        let mut last = None;
        for (id, token) in plain.chain(added) {
            if let Some(slot) = tokens.get_mut(id as usize) {
                *slot = Some(token);
            }
            last = last.max(Some(id));
        }
        if let Some(last) = last.filter(|last| *last as usize >= size) {
            let folder = file.parent().context("a tokenizer is in a folder")?.display();
            return Err(error::model(format!(
                "the tokenizer in {folder} has ids up to {last}, but the model's embedding has only {size} rows; use the model's own \
                 tokenizer, or resize the embedding"
            )));
        }
        let filled = tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)));
        let (tokens, types) = filled.unzip();
        Ok(VocabularyTokens { tokens, types, merges: merges.iter().map(|(left, right)| merge(left, right)).collect() })
    }
}

/// A pair as GGUF has it. A space within a token is written as `Ġ`, as in byte-level BPE.
fn merge(left: &str, right: &str) -> String {
    [left, right].map(|part| part.replace(' ', "Ġ")).join(" ")
}
