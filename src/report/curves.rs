//! The numbers of metrics.jsonl by name, and fewer points of them for a drawing.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use crate::base::files;

/// Different names in one file. A script that puts a number into its names makes no page of a thousand curves.
const MAX_NAMES: usize = 40;
/// Numbers that say nothing as a curve.
const NOT_DRAWN: [&str; 2] = ["epoch", "eta_seconds"];
/// Bytes of a line that are read.
const MAX_LINE: usize = 1 << 16;

/// One number over the steps, in ascending order of the steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    pub name: String,
    /// Step and value, both finite.
    pub points: Vec<(f64, f64)>,
}

/// The curves of a step, in the order of their first lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curves {
    pub all: Vec<Curve>,
    /// Lines that were read.
    pub lines: usize,
    /// Where a resumed training began to write again.
    pub resumed_at: Vec<f64>,
}

impl Curves {
    /// Reads a file. Lines that are no object, such as the last one of a process that was killed, are left out.
    pub(crate) fn read(path: &Path) -> Curves {
        let mut curves = Curves::default();
        let Ok(file) = files::open_own(path) else { return curves };
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            curves.add_line(&line);
            line.clear();
        }
        curves
    }

    /// Adds whole lines of a file.
    pub(crate) fn add_lines(&mut self, lines: &[u8]) {
        lines.split_inclusive(|byte| *byte == b'\n').for_each(|line| self.add_line(line));
    }

    fn add_line(&mut self, line: &[u8]) {
        if line.len() <= MAX_LINE
            && let Ok(record) = serde_json::from_slice::<Map<String, Value>>(line)
        {
            self.add(&record);
        }
    }

    fn add(&mut self, record: &Map<String, Value>) {
        self.lines += 1;
        let step = record.get("step").and_then(Value::as_f64).unwrap_or(self.lines as f64);
        for (name, value) in record.iter().filter(|(name, _)| *name != "step") {
            let Some(value) = value.as_f64() else { continue };
            let place = self.all.iter().position(|curve| curve.name == *name);
            let place = place.or_else(|| {
                let new = (self.all.len() < MAX_NAMES).then_some(self.all.len())?;
                self.all.push(Curve { name: name.clone(), points: Vec::new() });
                Some(new)
            });
            let Some(place) = place else { continue };
            let points = &mut self.all[place].points;
            // A training that resumes from a checkpoint repeats the steps after it: the later ones count.
            if points.last().is_some_and(|(last, _)| *last >= step) {
                let before = points.len();
                let kept = points.partition_point(|(at, _)| *at < step);
                points.truncate(kept);
                // An evaluation has a line of its own for the same step, with some of the same numbers.
                let is_repeated = points.len() + 1 < before || name == "loss";
                if is_repeated && self.resumed_at.last() != Some(&step) {
                    self.resumed_at.push(step);
                }
            }
            points.push((step, value));
        }
    }

    /// The curves to look at.
    pub(crate) fn drawn(&self) -> impl Iterator<Item = &Curve> {
        self.all.iter().filter(|curve| !NOT_DRAWN.contains(&curve.name.as_str()) && !curve.points.is_empty())
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Curve> {
        self.all.iter().find(|curve| curve.name == name && !curve.points.is_empty())
    }
}

/// Points that share a column of a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    /// The last step in it.
    pub step: f64,
    pub low: f64,
    pub high: f64,
    pub mean: f64,
}

/// At most `count` buckets of equal width in steps, without empty ones. Lowest and highest values are kept, so that no spike disappears.
pub(crate) fn buckets(points: &[(f64, f64)], count: usize) -> Vec<Bucket> {
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else { return Vec::new() };
    if points.len() <= count {
        return points.iter().map(|&(step, value)| Bucket { step, low: value, high: value, mean: value }).collect();
    }
    let width = ((last - first) / count as f64).max(f64::MIN_POSITIVE);
    let mut made: Vec<(usize, usize, Bucket)> = Vec::new();
    for &(step, value) in points {
        let place = (((step - first) / width) as usize).min(count - 1);
        match made.last_mut().filter(|(at, ..)| *at == place) {
            Some((_, members, bucket)) => {
                *members += 1;
                bucket.step = step;
                bucket.low = bucket.low.min(value);
                bucket.high = bucket.high.max(value);
                bucket.mean += (value - bucket.mean) / *members as f64;
            }
            None => made.push((place, 1, Bucket { step, low: value, high: value, mean: value })),
        }
    }
    made.into_iter().map(|(.., bucket)| bucket).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Curves {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        Curves::read(&path)
    }

    #[test]
    fn a_resumed_training_replaces_the_steps_that_it_repeats() {
        let curves = read(concat!(
            "{\"step\": 1, \"loss\": 4.0}\n{\"step\": 2, \"loss\": 3.0, \"name\": \"x\"}\n{\"step\": 3, \"loss\": 2.5}\n",
            "{\"step\": 2, \"loss\": 3.5}\n[1]\n{\"step\": 3, \"loss\": 2.0}\n{\"step\": 3, \"eval_loss\": 1.0}\n{\"step\": 4, \"lo"
        ));
        assert_eq!(curves.named("loss").unwrap().points, [(1.0, 4.0), (2.0, 3.5), (3.0, 2.0)]);
        assert_eq!(curves.named("eval_loss").unwrap().points, [(3.0, 1.0)]);
        assert_eq!((curves.resumed_at, curves.lines, curves.all.len()), (vec![2.0], 6, 2));
        let curves = read(
            "{\"step\": 1, \"loss\": 4.0, \"epoch\": 1}\n{\"step\": 1, \"eval_loss\": 4.0, \"epoch\": 1}\n{\"step\": 2, \"loss\": 3.0, \"epoch\": 2}\n",
        );
        assert!(curves.resumed_at.is_empty(), "an evaluation is no resumption");
    }

    proptest! {
        #[test]
        fn few_buckets_keep_the_extremes_and_the_order(
            values in prop::collection::vec(-1e300..1e300f64, 1..400), count in 1..60usize,
        ) {
            let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, value)| ((i * i) as f64, *value)).collect();
            let made = buckets(&points, count);
            prop_assert!(made.len() <= count.max(1));
            prop_assert!(made.windows(2).all(|pair| pair[0].step < pair[1].step));
            let extreme = |values: &mut dyn Iterator<Item = f64>, pick: fn(f64, f64) -> f64| values.reduce(pick);
            prop_assert_eq!(extreme(&mut made.iter().map(|one| one.low), f64::min), extreme(&mut values.iter().copied(), f64::min));
            prop_assert_eq!(extreme(&mut made.iter().map(|one| one.high), f64::max), extreme(&mut values.iter().copied(), f64::max));
        }
    }
}
