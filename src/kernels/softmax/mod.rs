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

use crate::kernels::LANES;
use crate::kernels::softmax::panel::{BLOCK_BYTES, PANEL_REGISTERS, RowPanel, RunningSoftmax, TILE_ROWS, pack_panels};

/// The softmax of each row after one pass over the output matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// [rows]: what a row's exponents are relative to.
    pub reference: Vec<f32>,
    /// [rows]: Σ exp(logit - reference). A row's log-sum-exp is `reference` + ln `total`.
    pub total: Vec<f32>,
    /// [rows, features]: Σ exp(logit - reference) W. Empty if not requested.
    pub sums: Vec<f32>,
}

/// Whether the kernel supports rows with this number of features on this processor.
pub fn usable(features: usize) -> bool {
    crate::kernels::usable() && features > 0 && features.is_multiple_of(TILE_ROWS)
}

/// Computes the softmax of `hidden`, [rows, features], over the output matrix `weight`, [vocabulary, features], on `threads` threads.
///
/// The result is deterministic for a given number of threads. Its last digits depend on that number.
///
/// # Panics
/// If [`usable`] is false for `features`, or a length is not a multiple of `features`.
pub fn softmax(hidden: &[f32], weight: &[f32], features: usize, threads: usize, with_sums: bool) -> Softmax {
    assert!(usable(features) && hidden.len().is_multiple_of(features) && weight.len().is_multiple_of(features));
    let (rows, vocabulary) = (hidden.len() / features, weight.len() / features);
    let panels = pack_panels(hidden, features);
    let tiles = vocabulary.div_ceil(TILE_ROWS);
    let threads = threads.clamp(1, tiles.max(1));
    let range_size = tiles.div_ceil(threads) * TILE_ROWS;
    let ranges = (0..threads).map(|thread| (thread * range_size).min(vocabulary)..((thread + 1) * range_size).min(vocabulary));
    let mut partial: Vec<Vec<RunningSoftmax>> = std::thread::scope(|scope| {
        let panels = &panels;
        let handles: Vec<_> =
            ranges.map(|range| scope.spawn(move || softmax_over_vocabulary_range(panels, weight, features, range, with_sums))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let first = partial.remove(0);
    merge_partial_softmax(&first, &partial, rows, features, with_sums)
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
            sums: vec![0.0; if with_sums { panel.values.len() } else { 0 }],
        })
        .collect();
    let block_tokens = (BLOCK_BYTES / (4 * features) / TILE_ROWS * TILE_ROWS).clamp(2 * TILE_ROWS, 12 * TILE_ROWS);
    let mut logits = vec![0.0; block_tokens * PANEL_REGISTERS * LANES];
    for start in range.clone().step_by(block_tokens) {
        let block = &weight[start * features..(start + block_tokens).min(range.end) * features];
        for (panel, running) in panels.iter().zip(&mut running) {
            #[cfg(target_arch = "x86_64")]
            kernel::accumulate_block(block, features, panel, running, &mut logits);
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!("`usable` is false here: {} {} {}", block.len(), panel.registers, running.sums.len() + logits.len());
        }
    }
    running
}

/// Merges the threads' partial results, row by row. `first` and each of `others` have one entry for each panel.
fn merge_partial_softmax(
    first: &[RunningSoftmax],
    others: &[Vec<RunningSoftmax>],
    rows: usize,
    features: usize,
    with_sums: bool,
) -> Softmax {
    let mut reference = Vec::with_capacity(rows);
    let mut total = Vec::with_capacity(rows);
    let mut sums = vec![0.0; if with_sums { rows * features } else { 0 }];
    for (panel, running) in first.iter().enumerate() {
        let lanes = PANEL_REGISTERS * LANES;
        let stride = if with_sums { running.sums.len() / features } else { 0 };
        for lane in 0..lanes.min(rows - panel * lanes) {
            let parts = || std::iter::once(running).chain(others.iter().map(|other| &other[panel]));
            let maximum = parts().map(|part| part.reference[lane]).fold(f32::NEG_INFINITY, f32::max);
            let factors: Vec<f32> = parts().map(|part| (part.reference[lane] - maximum).exp()).collect();
            reference.push(maximum);
            total.push(parts().zip(&factors).map(|(part, factor)| part.total[lane] * factor).sum());
            if with_sums {
                let row = (panel * lanes + lane) * features;
                for (feature, sum) in sums[row..row + features].iter_mut().enumerate() {
                    *sum = parts().zip(&factors).map(|(part, factor)| part.sums[feature * stride + lane] * factor).sum();
                }
            }
        }
    }
    Softmax { reference, total, sums }
}
