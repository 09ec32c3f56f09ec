//! Statistics of a prepared data set.

use serde::{Deserialize, Serialize};

/// Statistics of a prepared data set. `conversations` and `duplicates` count conversations. `rows`, `tokens` and `target_tokens` count
/// only the samples kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub conversations: u64,
    pub rows: u64,
    pub tokens: u64,
    /// Tokens that are trained on.
    pub target_tokens: u64,
    /// Samples truncated to `max_length`.
    pub truncated: u64,
    /// Samples left out: too long, or without a turn to train on.
    pub dropped: u64,
    /// Conversations equal to an earlier one; left out only with `drop_duplicates`.
    pub duplicates: u64,
    /// Tokens lost by truncating and dropping.
    pub lost_tokens: u64,
    /// Conversations split into one sample per turn, because the template rewrites earlier turns.
    pub split_conversations: u64,
    /// Answers tokenized separately from their prompts. (Earlier builds wrote `recut_turns`.)
    #[serde(alias = "recut_turns")]
    pub separately_tokenized_turns: u64,
    /// Conversations with the text of a special token in a message, which stays ordinary text. (Earlier builds wrote
    /// `forged_control_tokens`.)
    #[serde(alias = "forged_control_tokens")]
    pub literal_special_tokens: u64,
    /// Tokens of the longest sample before truncation.
    pub longest: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_keys_of_earlier_builds_are_read_and_the_new_ones_written() {
        let counts = Counts { rows: 5, separately_tokenized_turns: 3, literal_special_tokens: 2, ..Counts::default() };
        let new = serde_json::to_value(&counts).unwrap();
        assert_eq!((&new["separately_tokenized_turns"], &new["literal_special_tokens"]), (&json!(3), &json!(2)));
        let mut old = new;
        let members = old.as_object_mut().unwrap();
        for (before, now) in [("recut_turns", "separately_tokenized_turns"), ("forged_control_tokens", "literal_special_tokens")] {
            let value = members.remove(now).unwrap();
            members.insert(before.into(), value);
        }
        assert_eq!(serde_json::from_value::<Counts>(old).unwrap(), counts);
    }

    #[test]
    fn the_summary_of_an_earlier_build_is_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/earlier-session/runs/earlier/finetune_lora/summary.json");
        let summary: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(summary["metrics"]["recut_turns"].is_u64());
        let counts: Counts = serde_json::from_value(summary["metrics"].clone()).unwrap();
        assert!(counts.rows > 0 && counts.tokens > counts.target_tokens, "{counts:?}");
    }
}
