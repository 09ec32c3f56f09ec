//! The `tokenizers` library's tokenizer for a few texts, made of that part of `tokenizer.json` which they can touch.
//!
//! The library takes half a second and 150 MB for a vocabulary of 151,936, to look at some hundred kilobytes of text. A merge whose
//! outcome does not occur in a text can never be applied to it, and a token that does not occur in it can never be one of its
//! tokens; without them the library gives the same ids. What may occur is told by stretches of a few bytes, which lets some through
//! that do not, and keeps all that do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use unicode_normalization_alignments::UnicodeNormalization;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::data::parse::json::Text;
use crate::data::tokenizer::file::Merge;
use crate::data::tokenizer::hf::Reference;
use crate::data::tokenizer::vocabulary::Spelling;

/// A tokenizer.json that a thread of its own reads, and that waits for texts.
#[derive(Debug)]
pub struct Excerpt {
    texts: Sender<Grams>,
    reading: JoinHandle<Result<Reference>>,
}

impl Excerpt {
    /// `file`: what stands in it.
    pub(crate) fn read(file: Arc<String>) -> Excerpt {
        let (texts, wanted) = channel::<Grams>();
        let reading = std::thread::spawn(move || {
            let mut parts: Parts = serde_json::from_str(&file)?;
            parts.keep(&wanted.recv().context("nothing to compare")?)?;
            Reference::of_json(&serde_json::to_vec(&parts)?)
        });
        Excerpt { texts, reading }
    }

    /// Names the texts, so that the tokenizer is made while other work goes on. What is named later counts for nothing.
    pub fn ask<'a>(&self, texts: impl Iterator<Item = &'a str>) {
        // Where the file could not be read nobody listens, and `reference` tells why.
        drop(self.texts.send(Grams::of(texts)));
    }

    /// The library's tokenizer for the texts asked for, and for no others.
    pub fn reference(self) -> Result<Reference> {
        self.reading.join().map_err(|_| anyhow::anyhow!("the tokenizers library panicked"))?
    }
}

/// A tokenizer.json. What is not known to stand in one is refused: the library may read something there that matters.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Parts<'a> {
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
    model: Model<'a>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Model<'a> {
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
    vocab: HashMap<Text<'a>, u32, Xxh3DefaultBuilder>,
    merges: Vec<Merge<'a>>,
}

impl Parts<'_> {
    /// Lets go of what cannot occur in the texts.
    fn keep(&mut self, grams: &Grams) -> Result<()> {
        self.model.vocab.retain(|token, _| grams.may_hold(&token.0));
        // The library gives ids of its own to added tokens that the vocabulary lacks.
        for token in &self.added_tokens {
            let (content, id) = token.get("content").and_then(Value::as_str).zip(token.get("id")).context("an added token")?;
            let id = id.as_u64().context("an added token's id")?;
            self.model.vocab.insert(Text(content.to_string().into()), u32::try_from(id)?);
        }
        let mut joined = String::new();
        self.model.merges.retain(|merge| {
            joined.clear();
            joined.extend(merge.parts().into_iter().flat_map(|(left, right)| [left, right]));
            grams.may_hold(&joined)
        });
        Ok(())
    }
}

/// Which stretches of `GRAM` bytes occur in texts, as a byte-level vocabulary spells them; some others too.
struct Grams(Vec<u64>);

const GRAM: usize = 5;
const BITS: u32 = 21;

impl Grams {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Grams {
        let spelling = Spelling::new();
        let mut grams = Grams(vec![0; 1 << (BITS - 6)]);
        for text in texts {
            // The library's own normalization.
            let normal: String = text.nfc().map(|(c, _)| c).collect();
            for gram in spelling.spell_all(&normal).as_bytes().windows(GRAM) {
                let at = place(gram);
                grams.0[at / 64] |= 1 << (at % 64);
            }
        }
        grams
    }

    /// False only of what does not occur.
    fn may_hold(&self, spelled: &str) -> bool {
        spelled.as_bytes().windows(GRAM).map(place).all(|at| self.0[at / 64] >> (at % 64) & 1 == 1)
    }
}

fn place(gram: &[u8]) -> usize {
    let number = gram.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BITS)) as usize
}
