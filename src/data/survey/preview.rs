//! Preview of a sample: the text of each token and whether it is trained on, from the same ids and labels that training gets.

use serde::{Deserialize, Serialize};

use crate::data::rows::sample::IGNORED;
use crate::data::tokenizer::Tokenizer;

/// One sample to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Index of the conversation, from 0.
    pub conversation: usize,
    /// The message that the sample is for, if a conversation becomes several samples.
    pub message: Option<usize>,
    /// Number of tokens before truncation.
    pub tokens: u32,
    /// Number of tokens after truncation; 0 for an omitted sample, which has no pieces.
    pub kept: u32,
    pub target_tokens: u32,
    pub pieces: Vec<PreviewPiece>,
}

/// A token, or several tokens that together form valid text (a character may take more than one token).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewPiece {
    pub text: String,
    pub tokens: u32,
    /// Whether it is trained on.
    pub target: bool,
    /// Whether it is a special token such as `<|im_end|>`.
    pub control: bool,
}

/// The pieces of a row.
pub(crate) fn pieces(tokenizer: &Tokenizer, input_ids: &[i32], labels: &[i32]) -> Vec<PreviewPiece> {
    let mut pieces: Vec<PreviewPiece> = Vec::new();
    let (mut bytes, mut tokens) = (Vec::new(), 0);
    for (i, (id, label)) in input_ids.iter().zip(labels).enumerate() {
        let (id, target) = (*id as u32, *label != IGNORED);
        bytes.extend(tokenizer.bytes(id));
        tokens += 1;
        // An incomplete character is continued by the next token, unless only one of the two is trained on.
        let next = labels.get(i + 1).map(|label| *label != IGNORED);
        if next == Some(target) && ends_within_a_character(&bytes) {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        pieces.push(PreviewPiece { text, tokens, target, control: tokenizer.is_control(id) });
        bytes.clear();
        tokens = 0;
    }
    pieces
}

fn ends_within_a_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|cause| cause.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_incomplete_character_is_continued() {
        let whole = "日".as_bytes();
        assert!(ends_within_a_character(&whole[..1]) && ends_within_a_character(&whole[..2]));
        assert!(!ends_within_a_character(whole) && !ends_within_a_character(b"a") && !ends_within_a_character(&[0xff]));
    }
}
