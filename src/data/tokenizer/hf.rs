//! The `tokenizers` library: what the fast way is compared with (see [`crate::data::tokenizer::subset`]), and what takes its place where it does not
//! fit.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::base::error;
use crate::data::tokenizer::vocabulary::Spelling;

/// A tokenizer of the library, for which control tokens in text are text.
#[derive(Debug)]
pub struct Reference(tokenizers::Tokenizer);

/// The one read last: a process that prepares many data sets mostly has them for one model.
static LAST: Mutex<Option<(u128, Arc<Reference>)>> = Mutex::new(None);

impl Reference {
    /// `digest`: of the file at `path`.
    pub(crate) fn open(path: &Path, digest: u128) -> Result<Arc<Reference>> {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reference)) = last.as_ref().filter(|(known, _)| *known == digest) {
            return Ok(Arc::clone(reference));
        }
        let reference = Arc::new(Reference::read(path)?);
        *last = Some((digest, Arc::clone(&reference)));
        Ok(reference)
    }

    fn read(path: &Path) -> Result<Reference> {
        let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(|cause| {
            error::model(format!("the tokenizer {} cannot be loaded: {cause}; copy or download it again", path.display()))
        })?;
        Ok(Reference::new(tokenizer))
    }

    /// Of what stands in a tokenizer.json.
    pub(crate) fn of_json(json: &[u8]) -> Result<Reference> {
        let tokenizer =
            tokenizers::Tokenizer::from_bytes(json).map_err(|cause| error::model(format!("the tokenizer cannot be loaded: {cause}")))?;
        Ok(Reference::new(tokenizer))
    }

    fn new(mut tokenizer: tokenizers::Tokenizer) -> Reference {
        tokenizer.set_encode_special_tokens(true);
        Reference(tokenizer)
    }

    /// Appends the ids of a text in which what spells a control token is text.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let encoding = self.0.encode_fast(text, false).map_err(|cause| refused(&*cause))?;
        ids.extend(encoding.get_ids());
        Ok(())
    }

    /// The bytes that a token stands for; where the library's form of it is not byte-level, that form.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        let token = self.0.id_to_token(id).unwrap_or_default();
        Spelling::new().bytes(&token).unwrap_or_else(|| token.into_bytes())
    }

    /// How many bytes of the text each token takes.
    pub(crate) fn lengths(&self, text: &str) -> Result<Vec<usize>> {
        let encoding = self.0.encode(text, false).map_err(|cause| refused(&*cause))?;
        // Some tokenizers report a token without its white space; it begins where the one before it ended.
        let mut end = 0;
        Ok(encoding.get_offsets().iter().map(|(_, this)| this - std::mem::replace(&mut end, *this)).collect())
    }
}

fn refused(cause: &(dyn std::error::Error + Send + Sync)) -> anyhow::Error {
    error::input(format!("the tokenizer refuses a text: {cause}"))
}
