//! Which conversations are trained on, how often, and which are held out for evaluation.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::base::error;
use crate::base::numbers::counted;
use crate::data::rows::options::Options;

/// The files of one entry of `dataset_path`, and how much of them is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataPart {
    /// Number of its files, which follow those of the part before.
    pub files: usize,
    /// How often each conversation is taken in one epoch; of a fraction, a seeded choice is taken.
    pub weight: f64,
    /// At most this many conversations, from the first.
    pub max_rows: Option<usize>,
}

impl DataPart {
    /// Everything once.
    pub fn whole(files: usize) -> DataPart {
        DataPart { files, weight: 1.0, max_rows: None }
    }
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowOrigin {
    /// Index of the conversation.
    pub conversation: u32,
    /// Equal conversations have the same hash.
    pub hash: u64,
    /// Index of the conversation's file.
    pub file: u32,
}

/// What happens to the rows of each conversation that has any.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    times: HashMap<u32, u32>,
    held_out: HashSet<u32>,
}

impl Selection {
    /// `origins` are those of all rows, in order.
    ///
    /// # Errors
    /// Kind `input`: nothing would be left to train on.
    pub(crate) fn new(origins: &[RowOrigin], parts: &[DataPart], options: &Options) -> Result<Selection> {
        let mut conversations: Vec<RowOrigin> = origins.to_vec();
        conversations.dedup_by_key(|origin| origin.conversation);
        let mut times = HashMap::new();
        let mut first = 0;
        for part in parts {
            let files = first..first + part.files as u32;
            first = files.end;
            let own: Vec<u32> = conversations.iter().filter(|one| files.contains(&one.file)).map(|one| one.conversation).collect();
            let whole = part.weight.trunc() as u32;
            let more = (part.weight.fract() * own.len() as f64).round() as usize;
            let chosen: HashSet<u32> = drawn(own.clone(), options.seed).into_iter().take(more).collect();
            times.extend(own.into_iter().map(|number| (number, whole + u32::from(chosen.contains(&number)))));
        }
        conversations.retain(|one| times.get(&one.conversation).is_some_and(|times| *times > 0));
        if conversations.is_empty() && !origins.is_empty() {
            return Err(error::input("the weights of the data sets leave no conversation to train on; raise one of them"));
        }
        let held_out = if options.eval_split > 0.0 { held_out(&conversations, options)? } else { HashSet::new() };
        Ok(Selection { times, held_out })
    }

    /// How often a row is trained on; 0 if it is held out or not chosen.
    pub(crate) fn times(&self, conversation: u32) -> u32 {
        if self.is_held_out(conversation) { 0 } else { self.times.get(&conversation).copied().unwrap_or(0) }
    }

    pub(crate) fn is_held_out(&self, conversation: u32) -> bool {
        self.held_out.contains(&conversation)
    }
}

/// Those with the smallest hashes of seed and index come first: the choice depends on nothing else.
fn drawn(mut numbers: Vec<u32>, seed: u32) -> Vec<u32> {
    numbers.sort_by_key(|number| (xxh3_64_with_seed(&number.to_le_bytes(), u64::from(seed)), *number));
    numbers
}

/// The conversations to hold out, at least one. Equal conversations are on the same side, so that none is evaluated that was trained on.
fn held_out(conversations: &[RowOrigin], options: &Options) -> Result<HashSet<u32>> {
    let all = conversations.len();
    let count = ((options.eval_split * all as f64).round() as usize).max(1);
    let nothing_left = |count: usize, why: &str| {
        error::input(format!(
            "eval_split {} of {} holds out {count} and leaves nothing to train on{why}; lower eval_split, or add conversations",
            options.eval_split,
            counted(all as u64, "conversation")
        ))
    };
    if count >= all {
        return Err(nothing_left(count, ""));
    }
    let mut equal: HashMap<u64, Vec<u32>> = HashMap::new();
    for one in conversations {
        equal.entry(one.hash).or_default().push(one.conversation);
    }
    let groups: HashMap<u32, Vec<u32>> = equal.into_values().map(|numbers| (numbers[0], numbers)).collect();
    let mut held_out = HashSet::new();
    for first in drawn(groups.keys().copied().collect(), options.seed) {
        if held_out.len() >= count {
            break;
        }
        let group = &groups[&first];
        // A group that would leave nothing to train on stays.
        if held_out.len() + group.len() < all {
            held_out.extend(group);
        }
    }
    if held_out.is_empty() { Err(nothing_left(all, ", because they are all equal")) } else { Ok(held_out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(hashes: &[u64]) -> Vec<RowOrigin> {
        hashes.iter().enumerate().map(|(i, hash)| RowOrigin { conversation: i as u32, hash: *hash, file: u32::from(i >= 10) }).collect()
    }

    fn options(eval_split: f64, seed: u32) -> Options {
        let given = serde_json::json!({"max_length": 64, "overlong": "error", "thinking": "keep", "drop_duplicates": false,
            "eval_split": eval_split, "seed": seed, "shape": "auto", "columns": null});
        Options::of(given.as_object().unwrap()).unwrap()
    }

    #[test]
    fn equal_conversations_are_held_out_together() {
        let twice: Vec<u64> = (0..40).map(|i| i % 20).collect();
        for seed in 0..20 {
            let rows = origins(&twice);
            let chosen = Selection::new(&rows, &[DataPart::whole(2)], &options(0.1, seed)).unwrap();
            for i in 0..20 {
                assert_eq!(chosen.is_held_out(i), chosen.is_held_out(i + 20));
            }
            assert_eq!((0..40).filter(|i| chosen.is_held_out(*i)).count(), 4);
        }
        let error = Selection::new(&origins(&[7; 12]), &[DataPart::whole(2)], &options(0.5, 1)).unwrap_err().to_string();
        assert!(error.contains("they are all equal"), "{error}");
    }

    #[test]
    fn weights_repeat_and_choose() {
        let rows = origins(&(0..30).collect::<Vec<_>>());
        let parts = |first, second| [DataPart { weight: first, ..DataPart::whole(1) }, DataPart { weight: second, ..DataPart::whole(1) }];
        let count = |parts: &[DataPart], range: std::ops::Range<u32>| {
            let chosen = Selection::new(&rows, parts, &options(0.0, 3)).unwrap();
            range.map(|i| chosen.times(i)).sum::<u32>()
        };
        assert_eq!((count(&parts(2.0, 0.5), 0..10), count(&parts(2.0, 0.5), 10..30)), (20, 10));
        assert_eq!((count(&parts(0.25, 1.5), 0..10), count(&parts(0.25, 1.5), 10..30)), (3, 30));
        assert!(Selection::new(&rows, &parts(0.0, 0.0), &options(0.0, 3)).is_err());
    }
}
