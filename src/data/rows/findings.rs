//! Problems and peculiarities of a data set, each with its first places, and whether training accepts them.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::base::error;
use crate::data::read::problem::Problems;
use crate::data::rows::counts::Counts;
use crate::data::rows::options::{Options, Overlong};

/// Places kept for each kind of finding.
const KEPT: usize = 20;
/// Places listed in one message.
const NAMED: usize = 5;

/// The first items, and the number of all.
#[derive(Clone, Debug)]
pub struct First<T> {
    pub first: Vec<T>,
    pub count: u64,
}

impl<T> Default for First<T> {
    fn default() -> First<T> {
        First { first: Vec::new(), count: 0 }
    }
}

impl<T> First<T> {
    pub(crate) fn add(&mut self, one: T) {
        self.count += 1;
        if self.first.len() < KEPT {
            self.first.push(one);
        }
    }

    /// `[3], [8], and 5 more`; `name` formats an item.
    pub(crate) fn named(&self, name: impl Fn(&T) -> String) -> String {
        let names: Vec<String> = self.first.iter().take(NAMED).map(name).collect();
        let more = self.count - names.len() as u64;
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        format!("{}{more}", names.join(", "))
    }
}

/// A sample of more than `max_length` tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct TooLong {
    /// `[3]`, or `[3].messages[5]` if a conversation becomes one sample per turn.
    pub place: String,
    pub tokens: u32,
}

/// The findings in a data set.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Faults of the files.
    pub problems: Problems,
    /// Messages about conversations that the chat template refuses.
    pub refused: First<String>,
    pub too_long: First<TooLong>,
    /// Number of too long samples that were dropped.
    pub too_long_dropped: u64,
    /// Places of messages that contain the text of a special token.
    pub literal_special_tokens: First<String>,
    /// Conversations equal to an earlier one.
    pub duplicates: First<String>,
}

impl Findings {
    /// Checks that the data can be trained on.
    ///
    /// # Errors
    /// Kind `input`: faults in the files, too long samples with `overlong` `error`, or no sample left.
    pub fn refusal(&self, counts: &Counts, options: &Options, files: &[PathBuf]) -> Result<()> {
        self.problems.clone().into_result(files)?;
        match self.sentences(counts, options).into_iter().next() {
            Some(sentence) => Err(error::input(sentence)),
            None => Ok(()),
        }
    }

    /// All reasons of `refusal` besides faults in the files, each as a sentence.
    pub(crate) fn sentences(&self, counts: &Counts, options: &Options) -> Vec<String> {
        let mut sentences = self.refused.first.clone();
        let unnamed = self.refused.count - sentences.len() as u64;
        if unnamed > 0 {
            sentences.push(format!("the model's chat template refuses {unnamed} more conversations"));
        }
        let most = options.max_length;
        if self.too_long.count > 0 && options.overlong == Overlong::Error {
            sentences.push(format!(
                "{} samples have more than max_length {most} tokens: conversation {}. Raise max_length (the longest needs {}), or set \
                 overlong to drop, truncate_left or truncate_right",
                self.too_long.count,
                self.too_long.named(|one| format!("{} has {}", one.place, one.tokens)),
                counts.longest
            ));
        } else if counts.rows == 0 && counts.dropped > 0 {
            let overlong = serde_json::to_value(options.overlong).unwrap_or_default();
            sentences.push(format!(
                "no sample is left to train on: all {} samples are dropped. With overlong {} and max_length {most}, {} were too long, or \
                 truncation removed every turn to train on (raise max_length, or use truncate_left, which keeps the last turns); the \
                 others have only assistant turns with \"train\": false",
                counts.dropped,
                overlong.as_str().unwrap_or_default(),
                self.too_long_dropped
            ));
        }
        sentences
    }
}
