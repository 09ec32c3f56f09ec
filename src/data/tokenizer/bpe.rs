//! Byte-pair encoding of one word: repeatedly merges the pair with the lowest rank, the leftmost first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Looks up merges: the rank of a pair of tokens and the merged token.
pub(crate) trait MergeTable {
    fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)>;
}

/// Up to this length, searching all pairs each time is faster than a heap.
const SHORT: usize = 64;

/// Applies all merges to `symbols`, which start as the tokens of a word's single bytes.
pub(crate) fn merge_all(merges: &impl MergeTable, symbols: &mut Vec<u32>) {
    if symbols.len() <= SHORT { merge_short(merges, symbols) } else { merge_long(merges, symbols) }
}

const NO_MERGE: u64 = u64::MAX;

/// Rank and merged token of a pair in one number that sorts by rank.
fn pair(merges: &impl MergeTable, left: u32, right: u32) -> u64 {
    merges.merge(left, right).map_or(NO_MERGE, |(rank, token)| u64::from(rank) << 32 | u64::from(token))
}

fn merge_short(merges: &impl MergeTable, symbols: &mut Vec<u32>) {
    let mut pairs = [NO_MERGE; SHORT];
    let mut count = symbols.len();
    for i in 1..count {
        pairs[i - 1] = pair(merges, symbols[i - 1], symbols[i]);
    }
    while count > 1 {
        // `min_by_key` returns the first minimum, which is the leftmost pair.
        let (best, &found) = pairs[..count - 1].iter().enumerate().min_by_key(|(_, found)| **found).expect("there is a pair");
        if found == NO_MERGE {
            break;
        }
        symbols[best] = found as u32;
        symbols.copy_within(best + 2..count, best + 1);
        pairs.copy_within(best + 1..count - 1, best);
        count -= 1;
        if best > 0 {
            pairs[best - 1] = pair(merges, symbols[best - 1], symbols[best]);
        }
        if best + 1 < count {
            pairs[best] = pair(merges, symbols[best], symbols[best + 1]);
        }
    }
    symbols.truncate(count);
}

fn merge_long(merges: &impl MergeTable, symbols: &mut Vec<u32>) {
    const GONE: u32 = u32::MAX;
    let count = symbols.len();
    let mut next: Vec<usize> = (1..=count).collect();
    let mut before: Vec<usize> = (0..count).map(|i| i.wrapping_sub(1)).collect();
    let mut heap = BinaryHeap::new();
    // (rank, position, left, right, merged token). An entry that no longer matches its position is skipped.
    let offer = |heap: &mut BinaryHeap<_>, at: usize, left: u32, right: u32| {
        if let Some((rank, token)) = merges.merge(left, right) {
            heap.push(Reverse((rank, at, left, right, token)));
        }
    };
    for at in 1..count {
        offer(&mut heap, at - 1, symbols[at - 1], symbols[at]);
    }
    while let Some(Reverse((_, at, left, right, token))) = heap.pop() {
        let other = next[at];
        if symbols[at] != left || other >= count || symbols[other] != right {
            continue;
        }
        symbols[at] = token;
        symbols[other] = GONE;
        next[at] = next[other];
        if next[at] < count {
            before[next[at]] = at;
            offer(&mut heap, at, token, symbols[next[at]]);
        }
        if before[at] < count {
            offer(&mut heap, before[at], symbols[before[at]], token);
        }
    }
    symbols.retain(|symbol| *symbol != GONE);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    impl MergeTable for HashMap<(u32, u32), (u32, u32)> {
        fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
            self.get(&(left, right)).copied()
        }
    }

    proptest! {
        #[test]
        fn short_and_long_words_are_merged_alike(
            table in prop::collection::vec((0u32..6, 0u32..6), 0..20),
            word in prop::collection::vec(0u32..4, 1..SHORT),
        ) {
            let merges: HashMap<_, _> = table.iter().enumerate().map(|(rank, pair)| (*pair, (rank as u32, 4 + rank as u32 % 3))).collect();
            let (mut a, mut b) = (word.clone(), word);
            merge_short(&merges, &mut a);
            merge_long(&merges, &mut b);
            prop_assert_eq!(a, b);
        }
    }
}
