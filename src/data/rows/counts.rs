//! What became of a data set, in numbers.

use serde::{Deserialize, Serialize};

/// What became of the data. All but `conversations` and `duplicates` count samples or tokens; those of the samples kept are
/// `rows`, `tokens` and `target_tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub conversations: u64,
    pub rows: u64,
    pub tokens: u64,
    /// Tokens that are trained on.
    pub target_tokens: u64,
    /// Samples cut to `max_length`.
    pub truncated: u64,
    /// Samples left out: too long, or without a turn to train on.
    pub dropped: u64,
    /// Conversations that are equal to an earlier one, left out only with `drop_duplicates`.
    pub duplicates: u64,
    /// Tokens that truncating and dropping cost.
    pub lost_tokens: u64,
    /// Conversations that became one sample a turn, as the template rewrites earlier turns.
    pub split_conversations: u64,
    /// Answers tokenized apart from their prompts.
    pub recut_turns: u64,
    /// Conversations in which a text spells a control token, which stays text.
    pub forged_control_tokens: u64,
    /// Tokens of the longest sample before anything is cut.
    pub longest: u64,
}
