//! What is wrong with a data set or worth a look, each with its first places, and what training makes of it.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::base::error;
use crate::data::read::problem::Problems;
use crate::data::rows::counts::Counts;
use crate::data::rows::options::{Options, Overlong};

/// Places kept of each sort of finding.
const KEPT: usize = 20;
/// Places named in one message.
const NAMED: usize = 5;

/// The first of many, and how many there are.
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

    /// `[3], [8] and 5 more`, each named by `name`.
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
    /// `[3]`, or `[3].messages[5]` where a conversation becomes one sample a turn.
    pub place: String,
    pub tokens: u32,
}

/// What was noted on the way through a data set.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Faults of the files.
    pub problems: Problems,
    /// Sentences about conversations that the chat template refuses.
    pub refused: First<String>,
    pub too_long: First<TooLong>,
    /// Of these, how many were left out.
    pub too_long_dropped: u64,
    /// Where texts spell control tokens.
    pub forged: First<String>,
    /// Conversations that are equal to an earlier one.
    pub duplicates: First<String>,
}

impl Findings {
    /// Nothing, or why nothing can be trained on the data.
    ///
    /// # Errors
    /// Kind `input`: faults in the files, overlong samples where `overlong` is `error`, nothing left to train on.
    pub fn refusal(&self, counts: &Counts, options: &Options, files: &[PathBuf]) -> Result<()> {
        self.problems.clone().into_result(files)?;
        match self.sentences(counts, options).into_iter().next() {
            Some(sentence) => Err(error::input(sentence)),
            None => Ok(()),
        }
    }

    /// As `refusal`, without the faults in the files: every reason, as a sentence.
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
                "nothing is left to train on: all {} samples are dropped. With overlong {} and max_length {most}, {} were too long or lost \
                 every turn to train on when cut (raise max_length, or take truncate_left, which keeps the last turns); the others have no \
                 assistant turn but with \"train\": false",
                counts.dropped,
                overlong.as_str().unwrap_or_default(),
                self.too_long_dropped
            ));
        }
        sentences
    }
}
