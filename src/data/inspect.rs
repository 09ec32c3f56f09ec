//! One stage of the data engine by itself, with no library to fall back on: what the tests compare with transformers and tokenizers.

use std::path::Path;

use anyhow::Result;

use crate::base::error;
use crate::data::engine::DataEngine;
use crate::data::parse::fast;
use crate::data::render::rendering::{Render, RenderError, Rendering};
use crate::data::tokenizer::{Scratch, Tokenizer};

/// Renders conversations, each a JSON object, by the template of the model in `folder`; of one that is refused or not supported, why.
///
/// # Errors
/// Kind `model`: no tokenizer or no template. Kind `input`: a conversation with a fault.
pub fn render_chat(folder: &Path, conversations: &[String]) -> Result<Vec<Result<Vec<Rendering>, String>>> {
    render_chat_by(&DataEngine::open(folder, None)?.renderer, conversations)
}

/// As [`render_chat`], by any renderer.
///
/// # Errors
/// Kind `input`: a conversation with a fault.
pub fn render_chat_by(renderer: &dyn Render, conversations: &[String]) -> Result<Vec<Result<Vec<Rendering>, String>>> {
    let mut all = Vec::with_capacity(conversations.len());
    for text in conversations {
        let conversation = fast::conversation(text).ok_or_else(|| error::input(format!("no conversation: {text}")))?;
        all.push(renderer.renderings(&conversation).map_err(|error| match error {
            RenderError::Failed(error) => error.to_string(),
            RenderError::Unsupported(why) => why,
        }));
    }
    Ok(all)
}

/// The token ids of texts in which what spells a control token is text, by the tokenizer of the model in `folder`, and whether that
/// is the fast one.
///
/// # Errors
/// Kind `model`: no tokenizer.
pub fn tokenize(folder: &Path, texts: &[String]) -> Result<(bool, Vec<Vec<u32>>)> {
    let tokenizer = Tokenizer::open(folder, None)?;
    let mut scratch = Scratch::default();
    let ids = texts.iter().map(|text| {
        let mut ids = Vec::new();
        tokenizer.encode(text, &mut scratch, &mut ids).map(|()| ids)
    });
    Ok((tokenizer.is_fast(), ids.collect::<Result<_>>()?))
}

/// The token ids of texts by the `tokenizers` library, made of what these texts can touch of the tokenizer of the model in `folder`.
///
/// # Errors
/// Kind `model`: no tokenizer, or one that is not known well enough for that.
pub fn tokenize_by_library(folder: &Path, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let excerpt = Tokenizer::open(folder, None)?.excerpt().ok_or_else(|| error::model("not the byte-level BPE of Qwen"))?;
    excerpt.ask(texts.iter().map(String::as_str));
    let library = excerpt.reference()?;
    let ids = texts.iter().map(|text| {
        let mut ids = Vec::new();
        library.encode(text, &mut ids).map(|()| ids)
    });
    ids.collect()
}
