//! A tokenizer of the `tokenizers` library for a few known texts, built from the part of `tokenizer.json` that can affect them.
//!
//! The library takes half a second and 150 MB to load a vocabulary of 151,936, here for some hundred kilobytes of text. A merge whose result
//! does not occur in a text is never applied to it, and a token that does not occur in it is never one of its tokens. Without them the
//! library returns the same ids. An n-gram filter decides what may occur. It has false positives, but no false negatives.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use unicode_normalization_alignments::UnicodeNormalization;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::base::threads;
use crate::data::parse::json::JsonString;
use crate::data::tokenizer::bpe_vocabulary::ByteSpelling;
use crate::data::tokenizer::hf_tokenizer::HfTokenizer;
use crate::data::tokenizer::merge::Merge;

/// A tokenizer that a background thread builds: the thread reads tokenizer.json and waits for the texts.
#[derive(Debug)]
pub struct SubsetTokenizer {
    texts: Sender<NgramFilter>,
    reading: Reading,
}

/// The work of the thread, or what `wait` must do because no thread could be started.
enum Reading {
    Running(JoinHandle<Result<HfTokenizer>>),
    Postponed(Mutex<Box<dyn FnOnce() -> Result<HfTokenizer> + Send>>),
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Reading::Running(_)) { "Running" } else { "Postponed" })
    }
}

impl SubsetTokenizer {
    /// Starts reading. `file`: the content of tokenizer.json.
    pub(crate) fn read(file: Arc<String>) -> SubsetTokenizer {
        let (texts, wanted) = channel::<NgramFilter>();
        let reading = threads::spawn(move || {
            let mut file_parts: SubsetFile = serde_json::from_str(&file)?;
            file_parts.keep(&wanted.recv().context("nothing to compare")?)?;
            HfTokenizer::of_json(&serde_json::to_vec(&file_parts)?)
        });
        let reading = reading.map_or_else(|work| Reading::Postponed(Mutex::new(Box::new(work))), Reading::Running);
        SubsetTokenizer { texts, reading }
    }

    /// Sends the texts, so that the tokenizer is built in the background. Only the first call has an effect.
    pub fn send_texts<'a>(&self, texts: impl Iterator<Item = &'a str>) {
        // If reading failed, the receiver is gone, and `wait` returns the error.
        drop(self.texts.send(NgramFilter::of(texts)));
    }

    /// Waits for the tokenizer, which is valid only for the texts that were sent.
    pub fn wait(self) -> Result<HfTokenizer> {
        match self.reading {
            Reading::Running(thread) => thread.join().map_err(|_| anyhow::anyhow!("the tokenizers library panicked"))?,
            Reading::Postponed(work) => (work.into_inner().unwrap_or_else(PoisonError::into_inner))(),
        }
    }
}

/// A tokenizer.json. Unknown fields are an error, because they might change what the library does.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SubsetFile<'a> {
    version: Option<Value>,
    truncation: Option<Value>,
    padding: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<Map<String, Value>>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    #[serde(borrow)]
    model: SubsetModel<'a>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SubsetModel<'a> {
    #[serde(rename = "type")]
    kind: Option<Value>,
    dropout: Option<Value>,
    unk_token: Option<Value>,
    continuing_subword_prefix: Option<Value>,
    end_of_word_suffix: Option<Value>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: HashMap<JsonString<'a>, u32, Xxh3DefaultBuilder>,
    merges: Vec<Merge<'a>>,
}

impl SubsetFile<'_> {
    /// Removes tokens and merges that cannot occur in the texts.
    fn keep(&mut self, grams: &NgramFilter) -> Result<()> {
        self.model.vocab.retain(|token, _| grams.may_contain(&token.0));
        // The library assigns its own ids to added tokens that are missing in the vocabulary.
        for token in &self.added_tokens {
            let (content, id) = token.get("content").and_then(Value::as_str).zip(token.get("id")).context("an added token")?;
            let id = id.as_u64().context("an added token's id")?;
            self.model.vocab.insert(JsonString(content.to_string().into()), u32::try_from(id)?);
        }
        let mut joined = String::new();
        self.model.merges.retain(|merge| {
            joined.clear();
            joined.extend(merge.parts().into_iter().flat_map(|(left, right)| [left, right]));
            grams.may_contain(&joined)
        });
        Ok(())
    }
}

/// A Bloom-style filter of the n-grams of `GRAM` bytes in the texts, in byte-level form.
struct NgramFilter(Vec<u64>);

const GRAM: usize = 5;
const BITS: u32 = 21;

impl NgramFilter {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> NgramFilter {
        let spelling = ByteSpelling::new();
        let mut grams = NgramFilter(vec![0; 1 << (BITS - 6)]);
        for text in texts {
            // The library's own normalization.
            let normal: String = text.nfc().map(|(c, _)| c).collect();
            for gram in spelling.spell_all(&normal).as_bytes().windows(GRAM) {
                let at = ngram_bit(gram);
                grams.0[at / 64] |= 1 << (at % 64);
            }
        }
        grams
    }

    /// Whether the texts may contain this string. False only if they do not.
    fn may_contain(&self, spelled: &str) -> bool {
        spelled.as_bytes().windows(GRAM).map(ngram_bit).all(|at| self.0[at / 64] >> (at % 64) & 1 == 1)
    }
}

fn ngram_bit(gram: &[u8]) -> usize {
    let number = gram.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BITS)) as usize
}
