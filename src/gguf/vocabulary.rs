//! A tokenizer's words as GGUF keys, read from its `tokenizer.json` when the header is written: a plan names them alone.

use anyhow::{Context, Result};

use crate::base::error;
use crate::data;
use crate::gguf::plan::Vocabulary;

/// `llama_token_type` of a token that texts are cut into, and of an id that has none.
const NORMAL: i32 = 1;
const UNUSED: i32 = 5;

/// The words of a vocabulary, by id.
#[derive(Debug)]
pub(crate) struct Words {
    pub tokens: Vec<String>,
    /// `llama_token_type` of each token.
    pub types: Vec<i32>,
    /// Two tokens with a space between them, the first to be merged first.
    pub merges: Vec<String>,
}

impl Words {
    /// Fills up what the tokenizer lacks with `[PAD…]`, as llama.cpp's converter does.
    pub fn read(vocabulary: &Vocabulary) -> Result<Words> {
        let (file, size) = (&vocabulary.tokenizer, vocabulary.size);
        let (known, merges) = data::vocabulary_and_merges(file)?;
        let mut words: Vec<Option<(String, i32)>> = vec![None; size];
        let plain = known.into_iter().map(|(token, id)| (id, (token, NORMAL)));
        let added = vocabulary.added.iter().map(|added| (added.id, (added.text.clone(), added.kind)));
        let mut last = None;
        for (id, word) in plain.chain(added) {
            if let Some(place) = words.get_mut(id as usize) {
                *place = Some(word);
            }
            last = last.max(Some(id));
        }
        if let Some(last) = last.filter(|last| *last as usize >= size) {
            let folder = file.parent().context("a tokenizer is in a folder")?.display();
            return Err(error::model(format!(
                "the tokenizer in {folder} has ids up to {last}, the model only {size}; take the tokenizer that belongs to the model, \
                 or resize the model's embedding"
            )));
        }
        let filled = words.into_iter().enumerate().map(|(id, word)| word.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)));
        let (tokens, types) = filled.unzip();
        Ok(Words { tokens, types, merges: merges.iter().map(|(left, right)| merge(left, right)).collect() })
    }
}

/// A space within a token is written as byte-level BPE writes it elsewhere.
fn merge(left: &str, right: &str) -> String {
    [left, right].map(|part| part.replace(' ', "Ġ")).join(" ")
}
