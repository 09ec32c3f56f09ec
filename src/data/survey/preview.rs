//! A sample as its tokens, each with its text and whether it is trained on: made from the very ids and labels that training gets.

use serde::{Deserialize, Serialize};

use crate::data::rows::sample::IGNORED;
use crate::data::tokenizer::Tokenizer;

/// One sample to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Index of the conversation, from 0.
    pub conversation: usize,
    /// The message that the sample is for, where a conversation becomes several.
    pub message: Option<usize>,
    /// Tokens before anything is cut.
    pub tokens: u32,
    /// Tokens kept; 0 for a sample that is left out, which has no pieces.
    pub kept: u32,
    pub target_tokens: u32,
    pub pieces: Vec<Piece>,
}

/// A token, or several that only together are text (a character may take more than one).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub text: String,
    pub tokens: u32,
    /// Whether it is trained on.
    pub target: bool,
    /// Whether it is a control token such as `<|im_end|>`.
    pub control: bool,
}

/// The pieces of a row.
pub(crate) fn pieces(tokenizer: &Tokenizer, input_ids: &[i32], labels: &[i32]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut bytes, mut tokens) = (Vec::new(), 0);
    for (i, (id, label)) in input_ids.iter().zip(labels).enumerate() {
        let (id, target) = (*id as u32, *label != IGNORED);
        bytes.extend(tokenizer.bytes(id));
        tokens += 1;
        // A character that is not whole waits for the next token, unless that is of another kind.
        let next = labels.get(i + 1).map(|label| *label != IGNORED);
        if next == Some(target) && ends_within_a_character(&bytes) {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        pieces.push(Piece { text, tokens, target, control: tokenizer.is_control(id) });
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
    fn only_a_cut_character_waits_for_its_rest() {
        let whole = "日".as_bytes();
        assert!(ends_within_a_character(&whole[..1]) && ends_within_a_character(&whole[..2]));
        assert!(!ends_within_a_character(whole) && !ends_within_a_character(b"a") && !ends_within_a_character(&[0xff]));
    }
}
