//! The softmax over the vocabulary for rows of hidden states, in one pass over the output matrix and without storing all logits.
//!
//! Each thread has a range of the vocabulary and processes it in blocks. A block's logits stay in the cache between the product that
//! computes them and the product that uses them, Σ exp(logit) W, from which the gradient is computed.
//!
//! A row's largest logit is known only at the end. Exponents are therefore relative to a reference that grows with the logits (online
//! softmax, arXiv 1805.02867). As in FlashAttention, it grows only occasionally.
//!
//! Rows lie across the lanes of a register. Each value of the output matrix is read in place and broadcast. So only the rows, which
//! are few, are packed.

#[cfg(target_arch = "x86_64")]
mod kernel;
mod panel;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::base::threads;
use crate::kernels::LANES;
use crate::kernels::shared_output::SharedOutput;
use crate::kernels::softmax::panel::{BLOCK_BYTES, PANEL_REGISTERS, RowPanel, RunningSoftmax, TILE_ROWS, pack_panels};

/// Rows of a full panel.
const PANEL_ROWS: usize = PANEL_REGISTERS * LANES;

/// Features that a thread merges at a time: for the rows of a panel, 24 KiB.
const MERGED_FEATURES: usize = 128;

/// The softmax of each row after one pass over the output matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// [rows]: what a row's exponents are relative to.
    pub reference: Vec<f32>,
    /// [rows]: Σ exp(logit - reference). A row's log-sum-exp is `reference` + ln `total`.
    pub total: Vec<f32>,
    /// [rows]: the logit of the row's target, from the same product as the others. So a row's loss is not negative, except for rounding.
    pub target_logit: Vec<f32>,
    /// [rows, features]: Σ exp(logit - reference) W. Empty if not requested.
    pub sums: Vec<f32>,
}

/// Whether the kernel supports rows with this number of features on this processor.
pub fn usable(features: usize) -> bool {
    crate::kernels::usable() && features > 0 && features.is_multiple_of(TILE_ROWS)
}

/// Computes the softmax of `hidden`, [rows, features], over the output matrix `weight`, [vocabulary, features], on up to `threads` threads.
/// `targets`: the target token of each row.
///
/// The result is deterministic for a given number of `threads`, even if fewer can be started. Its last digits depend on that number.
///
/// # Panics
/// If [`usable`] is false for `features`, a length is not a multiple of `features`, or a target is not in the vocabulary.
pub fn softmax(hidden: &[f32], weight: &[f32], features: usize, targets: &[usize], threads: usize, with_sums: bool) -> Softmax {
    assert!(usable(features) && hidden.len() == targets.len() * features && weight.len().is_multiple_of(features));
    let vocabulary = weight.len() / features;
    assert!(targets.iter().all(|target| *target < vocabulary));
    let panels = pack_panels(hidden, targets, features);
    let tiles = vocabulary.div_ceil(TILE_ROWS);
    let threads = threads.clamp(1, tiles.max(1));
    let range_size = tiles.div_ceil(threads) * TILE_ROWS;
    let ranges = (0..threads).map(|thread| (thread * range_size).min(vocabulary)..((thread + 1) * range_size).min(vocabulary));
    let partial =
        threads::map(ranges.collect(), threads, |range| softmax_over_vocabulary_range(&panels, weight, features, range, with_sums));
    merge_partial_softmax(&partial, targets, features, range_size, with_sums, threads)
}

/// The running softmax of each panel over a range of the vocabulary.
fn softmax_over_vocabulary_range(
    panels: &[RowPanel],
    weight: &[f32],
    features: usize,
    range: Range<usize>,
    with_sums: bool,
) -> Vec<RunningSoftmax> {
    let mut running: Vec<RunningSoftmax> = panels
        .iter()
        .map(|panel| RunningSoftmax {
            reference: [f32::NEG_INFINITY; PANEL_REGISTERS * LANES],
            total: [0.0; PANEL_REGISTERS * LANES],
            target_logit: [0.0; PANEL_REGISTERS * LANES],
            sums: vec![0.0; if with_sums { panel.values.len() } else { 0 }],
        })
        .collect();
    let block_tokens = (BLOCK_BYTES / (4 * features) / TILE_ROWS * TILE_ROWS).clamp(2 * TILE_ROWS, 12 * TILE_ROWS);
    let mut logits = vec![0.0; block_tokens * PANEL_REGISTERS * LANES];
    for start in range.clone().step_by(block_tokens) {
        let block = &weight[start * features..(start + block_tokens).min(range.end) * features];
        for (panel, running) in panels.iter().zip(&mut running) {
            #[cfg(target_arch = "x86_64")]
            kernel::accumulate_block(block, start, features, panel, running, &mut logits);
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!("`usable` is false here: {} {} {}", block.len(), panel.registers, running.sums.len() + logits.len());
        }
    }
    running
}

/// Merges the partial results of consecutive ranges of the vocabulary, each of `range_size` tokens and with one entry for each panel.
fn merge_partial_softmax(
    partial: &[Vec<RunningSoftmax>],
    targets: &[usize],
    features: usize,
    range_size: usize,
    with_sums: bool,
    threads: usize,
) -> Softmax {
    let rows = targets.len();
    let mut merged = Softmax {
        reference: Vec::with_capacity(rows),
        total: Vec::with_capacity(rows),
        target_logit: Vec::with_capacity(rows),
        sums: vec![0.0; if with_sums { rows * features } else { 0 }],
    };
    // [ranges][rows]: what each range's terms are multiplied by, since its exponents have another reference.
    let mut factors: Vec<Vec<f32>> = vec![Vec::with_capacity(rows); partial.len()];
    for (row, target) in targets.iter().enumerate() {
        let (panel, lane) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let maximum = partial.iter().map(|part| part[panel].reference[lane]).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for (part, factors) in partial.iter().zip(&mut factors) {
            let factor = (part[panel].reference[lane] - maximum).exp();
            total += part[panel].total[lane] * factor;
            factors.push(factor);
        }
        merged.reference.push(maximum);
        merged.total.push(total);
        merged.target_logit.push(partial[target / range_size][panel].target_logit[lane]);
    }
    if with_sums {
        let out = SharedOutput::new(merged.sums.as_mut_ptr());
        let panels = rows.div_ceil(PANEL_ROWS);
        let blocks = features.div_ceil(MERGED_FEATURES);
        threads::for_each(panels * blocks, threads, |task| {
            let (panel, first) = (task / blocks, task % blocks * MERGED_FEATURES);
            let (first_row, count) = (panel * PANEL_ROWS, MERGED_FEATURES.min(features - first));
            let lanes = partial[0][panel].sums.len() / features;
            let mut sums = vec![0.0; count * lanes];
            for (part, factors) in partial.iter().zip(&factors) {
                let factors = &factors[first_row..(first_row + lanes).min(rows)];
                for (sums, terms) in sums.chunks_mut(lanes).zip(part[panel].sums[first * lanes..].chunks(lanes)) {
                    for ((sum, term), factor) in sums.iter_mut().zip(terms).zip(factors) {
                        *sum += term * factor;
                    }
                }
            }
            for lane in 0..lanes.min(rows - first_row) {
                for feature in 0..count {
                    // SAFETY: within [rows, features], and no other task has these features of this panel's rows.
                    unsafe { *out.offset((first_row + lane) * features + first + feature) = sums[feature * lanes + lane] };
                }
            }
        });
    }
    merged
}
