//! Single stages of the data engine, without fallback to a library: the tests compare them with transformers and tokenizers.

use std::path::Path;

use anyhow::Result;

use serde_json::Value as Json;

use crate::base::error;
use crate::base::error::{Error, Kind};
use crate::data::parse::columns::Layout;
use crate::data::parse::dataset_format::DatasetFormat;
use crate::data::parse::{diagnostic, fast};
use crate::data::render::chat_renderer::ChatRenderer;
use crate::data::render::rendering::{Render, RenderError, Rendering};
use crate::data::render::template::ChatTemplate;
use crate::data::tokenizer::{Tokenizer, WordCache, special_tokens};

/// Renders conversations, each a JSON object, with the template of the model in `folder`. `Err` is the reason why one is refused or not
/// supported.
///
/// # Errors
/// Kind `model`: there is no tokenizer or no template. Kind `input`: a conversation is invalid.
pub fn render_chat(folder: &Path, conversations: &[String]) -> Result<Vec<Result<Vec<Rendering>, String>>> {
    // Of the tokenizer only the special tokens are read: its vocabulary takes a third of a second.
    let end_tokens = special_tokens(&folder.join("tokenizer.json"))?;
    render_chat_by(&ChatRenderer::new(ChatTemplate::open(folder)?, end_tokens), conversations)
}

/// Whether the template of the model in `folder` renders `messages` (a JSON list) within its limits. `options` are further variables. A
/// folder without a template, and any other failure, is left to transformers.
///
/// # Errors
/// Kind `input`: it does not.
pub fn check_template(folder: &Path, messages: &Json, options: &[(String, Json)], prompt: bool) -> Result<()> {
    match ChatTemplate::open(folder) {
        Ok(template) if template.compared => Ok(()),
        Ok(template) => template.within_limits(messages, options, prompt),
        Err(error) if Error::of(&error).kind == Kind::Input => Err(error),
        Err(_) => Ok(()),
    }
}

/// As [`render_chat`], with any renderer.
///
/// # Errors
/// Kind `input`: a conversation is invalid.
pub fn render_chat_by(renderer: &dyn Render, conversations: &[String]) -> Result<Vec<Result<Vec<Rendering>, String>>> {
    let mut all = Vec::with_capacity(conversations.len());
    for text in conversations {
        let slow = || {
            let (format, layout) = (DatasetFormat::Messages, Layout::default());
            diagnostic::parse_conversation(text.as_bytes(), "[0]", format, &layout, true, &mut |_, _, _| {})
        };
        let conversation = fast::parse_conversation(text).or_else(slow);
        let conversation = conversation.ok_or_else(|| error::input(format!("not a valid conversation: {text}")))?;
        all.push(renderer.renderings(&conversation).map_err(|error| match error {
            RenderError::Failed(error) => error.to_string(),
            RenderError::Unsupported(why) => why,
        }));
    }
    Ok(all)
}

/// The token ids of strings by the tokenizer of the model in `folder`, and whether that is the fast tokenizer. The text of a special token
/// is treated as ordinary text.
///
/// # Errors
/// Kind `model`: there is no tokenizer.
pub fn tokenize(folder: &Path, texts: &[String]) -> Result<(bool, Vec<Vec<u32>>)> {
    let tokenizer = Tokenizer::open(folder, None)?;
    let mut scratch = WordCache::default();
    let ids = texts.iter().map(|text| {
        let mut ids = Vec::new();
        tokenizer.encode(text, &mut scratch, &mut ids).map(|()| ids)
    });
    Ok((tokenizer.is_fast(), ids.collect::<Result<_>>()?))
}

/// The texts of token ids by the tokenizer of the model in `folder`, whose parsed form is in the folder `cache`.
///
/// # Errors
/// Kind `model`: there is no tokenizer.
pub fn detokenize(folder: &Path, cache: &Path, sequences: &[Vec<u32>], skip_special: bool) -> Result<Vec<String>> {
    let tokenizer = Tokenizer::open(folder, Some(cache))?;
    sequences.iter().map(|ids| tokenizer.decode(ids, skip_special)).collect()
}

/// The token ids of strings by the `tokenizers` library, with the subset of the tokenizer in `folder` that these strings can need.
///
/// # Errors
/// Kind `model`: there is no tokenizer, or it is not the byte-level BPE of Qwen.
pub fn tokenize_by_library(folder: &Path, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let excerpt =
        Tokenizer::open(folder, None)?.start_subset().ok_or_else(|| error::model("the tokenizer is not the byte-level BPE of Qwen"))?;
    excerpt.send_texts(texts.iter().map(String::as_str));
    let library = excerpt.wait()?;
    let ids = texts.iter().map(|text| {
        let mut ids = Vec::new();
        library.encode(text, &mut ids).map(|()| ids)
    });
    ids.collect()
}
