//! The `tokenizers` library: the reference for the fast tokenizer (see [`crate::data::tokenizer::subset_tokenizer`]), and its replacement for
//! other tokenizers. Its panics become errors here, the only place where it is entered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::base::error;
use crate::data::tokenizer::bpe_vocabulary::ByteSpelling;

/// A tokenizer of the library that encodes the text of special tokens as plain text.
#[derive(Debug)]
pub struct HfTokenizer(tokenizers::Tokenizer);

/// The tokenizer read last. A process that prepares many data sets usually does so for one model.
static LAST: Mutex<Option<(u128, Arc<HfTokenizer>)>> = Mutex::new(None);

impl HfTokenizer {
    /// Opens the file at `path`. `digest`: its hash.
    pub(crate) fn open(path: &Path, digest: u128) -> Result<Arc<HfTokenizer>> {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reference)) = last.as_ref().filter(|(known, _)| *known == digest) {
            return Ok(Arc::clone(reference));
        }
        let reference = Arc::new(HfTokenizer::read(path)?);
        *last = Some((digest, Arc::clone(&reference)));
        Ok(reference)
    }

    fn read(path: &Path) -> Result<HfTokenizer> {
        let tokenizer = caught(|| tokenizers::Tokenizer::from_file(path))?.map_err(|cause| {
            error::model(format!("the tokenizer {} cannot be loaded: {cause}; copy or download it again", path.display()))
        })?;
        Ok(HfTokenizer::new(tokenizer))
    }

    /// Creates a tokenizer from the content of a tokenizer.json.
    pub(crate) fn of_json(json: &[u8]) -> Result<HfTokenizer> {
        let tokenizer = caught(|| tokenizers::Tokenizer::from_bytes(json))?
            .map_err(|cause| error::model(format!("the tokenizer cannot be loaded: {cause}")))?;
        Ok(HfTokenizer::new(tokenizer))
    }

    fn new(mut tokenizer: tokenizers::Tokenizer) -> HfTokenizer {
        tokenizer.set_encode_special_tokens(true);
        HfTokenizer(tokenizer)
    }

    /// Appends the ids of a text. The text of special tokens is encoded as plain text.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let encoding = caught(|| self.0.encode_fast(text, false))?.map_err(|cause| cannot_encode(&*cause))?;
        ids.extend(encoding.get_ids());
        Ok(())
    }

    /// A number that is larger than all ids.
    pub(crate) fn size(&self) -> u32 {
        self.0.get_vocab(true).into_values().max().map_or(0, |last| last.saturating_add(1))
    }

    /// The bytes of a token; if the vocabulary is not byte-level, its string in the library.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        let token = self.0.id_to_token(id).unwrap_or_default();
        ByteSpelling::new().bytes(&token).unwrap_or_else(|| token.into_bytes())
    }

    /// The text of tokens. Ids that the vocabulary does not have are left out.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        caught(|| self.0.decode(ids, skip_special))?
            .map_err(|cause| error::input(format!("the tokenizer cannot decode its tokens: {cause}")))
    }

    /// The number of bytes of the text that each token covers.
    pub(crate) fn lengths(&self, text: &str) -> Result<Vec<usize>> {
        let encoding = caught(|| self.0.encode(text, false))?.map_err(|cause| cannot_encode(&*cause))?;
        // Some tokenizers report a token without its whitespace, so a token starts where the previous one ended.
        let mut end = 0;
        Ok(encoding.get_offsets().iter().map(|(_, this)| this - std::mem::replace(&mut end, *this)).collect())
    }
}

/// The result of the library, or an error if it panicked.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        error::input(format!(
            "the tokenizers library fails on this tokenizer.json: {}; use the model's own tokenizer",
            text.unwrap_or("it panicked")
        ))
    })
}

fn cannot_encode(cause: &(dyn std::error::Error + Send + Sync)) -> anyhow::Error {
    error::input(format!("the tokenizer cannot encode a text: {cause}"))
}
