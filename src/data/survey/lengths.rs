//! Lengths of a data set's rows: exact quantiles and a histogram. Memory does not grow with the number of rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Maximum number of bins in a histogram.
const BINS: u32 = 16;
/// From this ratio of longest to median length, equally wide bins would show only one bar.
const SKEWED: u32 = 16;

/// Number of rows by length in tokens.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    counts: BTreeMap<u32, u64>,
    rows: u64,
}

/// Number of rows with `from` to `to` tokens, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    pub from: u32,
    pub to: u32,
    pub rows: u64,
}

impl Lengths {
    pub fn add(&mut self, tokens: u32) {
        *self.counts.entry(tokens).or_default() += 1;
        self.rows += 1;
    }

    /// The smallest length that at least this fraction of the rows does not exceed (nearest rank); 0 without rows.
    pub fn quantile(&self, share: f64) -> u32 {
        let rank = ((share * self.rows as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (length, rows) in &self.counts {
            seen += rows;
            if seen >= rank {
                return *length;
            }
        }
        0
    }

    /// The longest length.
    pub fn max(&self) -> u32 {
        self.counts.last_key_value().map_or(0, |(length, _)| *length)
    }

    /// Bins from the shortest row to the longest, including empty ones. All have the same width (1, 2 or 5 times a power of ten) or, if a
    /// few rows are far longer than most, each is twice as wide as the one before.
    pub fn histogram(&self) -> Vec<Bin> {
        let (Some((&min, _)), max) = (self.counts.first_key_value(), self.max()) else { return Vec::new() };
        let mut bins = if max / self.quantile(0.5).max(1) >= SKEWED { doubling(min, max) } else { even(min, max) };
        for (length, rows) in &self.counts {
            let at = bins.partition_point(|bin| bin.to < *length);
            bins[at].rows += rows;
        }
        bins
    }
}

fn even(min: u32, max: u32) -> Vec<Bin> {
    let widths = (0..10).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let (min, max) = (u64::from(min), u64::from(max));
    let width = widths.into_iter().find(|width| max / width - min / width < u64::from(BINS)).unwrap_or(u64::from(u32::MAX));
    (min / width..=max / width)
        .map(|i| Bin { from: (i * width) as u32, to: ((i + 1) * width - 1).min(u64::from(u32::MAX)) as u32, rows: 0 })
        .collect()
}

fn doubling(min: u32, max: u32) -> Vec<Bin> {
    let power = |length: u32| length.max(1).ilog2();
    let upper = |power: u32| u32::try_from((1_u64 << (power + 1)) - 1).unwrap_or(u32::MAX);
    let (first, last) = (power(min).max(power(max).saturating_sub(BINS - 1)), power(max));
    let from = |i: u32| if i == first { min.min(1 << i) } else { 1 << i };
    (first..=last).map(|i| Bin { from: from(i), to: upper(i), rows: 0 }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lengths: &[u32]) -> Lengths {
        let mut made = Lengths::default();
        for length in lengths {
            made.add(*length);
        }
        made
    }

    #[test]
    fn quantiles_are_lengths_that_occur() {
        let lengths = of(&(1..=100).collect::<Vec<_>>());
        assert_eq!([0.5, 0.9, 0.99, 1.0].map(|share| lengths.quantile(share)), [50, 90, 99, 100]);
        assert_eq!(of(&[7]).quantile(0.5), 7);
        assert_eq!((of(&[]).quantile(0.5), of(&[]).max(), of(&[]).histogram()), (0, 0, Vec::new()));
    }

    #[test]
    fn bins_are_even_and_double_only_where_lengths_are_skewed() {
        let bins = of(&[10, 15, 31]).histogram();
        assert!(bins.iter().all(|bin| bin.to - bin.from == 1), "{bins:?}");
        let bins = of(&[10, 11, 12, 13, 2000]).histogram();
        assert_eq!(bins.first().map(|bin| (bin.from, bin.to, bin.rows)), Some((8, 15, 4)));
        assert_eq!(bins.last().map(|bin| (bin.from, bin.to, bin.rows)), Some((1024, 2047, 1)));
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_bin(lengths in prop::collection::vec(prop_oneof![0..50_u32, 0..5000_u32, any::<u32>()], 1..200)) {
            let bins = of(&lengths).histogram();
            prop_assert!(bins.len() <= BINS as usize);
            for pair in bins.windows(2) {
                prop_assert_eq!(pair[0].to + 1, pair[1].from);
            }
            for bin in bins {
                let within = lengths.iter().filter(|length| (bin.from..=bin.to).contains(length)).count();
                prop_assert_eq!(within as u64, bin.rows);
            }
        }
    }
}
