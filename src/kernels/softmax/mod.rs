//! The output matrix's part of training on a CPU: for each row of hidden states the softmax over the vocabulary, in one pass over
//! the matrix and without logits in memory.
//!
//! A thread has a range of words, and takes them some at a time. Their logits stay in the cache between the product that makes them
//! and the one that uses them, Σ exp(logit) W, of which the gradient is made. As a row's largest logit is not known before the end,
//! exponents are relative to a reference that grows with it (online softmax, arXiv 1805.02867; growing only now and then as in
//! FlashAttention). Rows lie across the lanes of a register and the matrix is read number by number as it lies, so of both products
//! only the rows, which are few, are laid out anew.

#[cfg(target_arch = "x86_64")]
mod kernel;
mod panel;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::kernels::LANES;
use crate::kernels::softmax::panel::{BLOCK_BYTES, HEIGHT, Panel, State, WIDTH, panels};

/// What is known of the rows after one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// For each row, what its exponents are relative to.
    pub reference: Vec<f32>,
    /// For each row Σ exp(logit - reference). The logarithm of the softmax's divisor is `reference` + ln `total`.
    pub total: Vec<f32>,
    /// Where asked for: [rows, features], Σ exp(logit - reference) W.
    pub sums: Vec<f32>,
}

/// Whether the pass takes rows of so many features on this processor.
pub fn usable(features: usize) -> bool {
    crate::kernels::usable() && features > 0 && features.is_multiple_of(HEIGHT)
}

/// The pass, by so many threads. `hidden` is [rows, features], `weight` [words, features]; the result does not depend on chance,
/// but in its last digits on the number of threads. `usable` must hold.
pub fn softmax(hidden: &[f32], weight: &[f32], features: usize, threads: usize, with_sums: bool) -> Softmax {
    assert!(usable(features) && hidden.len().is_multiple_of(features) && weight.len().is_multiple_of(features));
    let (rows, words) = (hidden.len() / features, weight.len() / features);
    let panels = panels(hidden, features);
    let threads = threads.clamp(1, words.div_ceil(HEIGHT).max(1));
    let part = words.div_ceil(HEIGHT).div_ceil(threads) * HEIGHT;
    let ranges = (0..threads).map(|thread| (thread * part).min(words)..((thread + 1) * part).min(words));
    let mut found: Vec<Vec<State>> = std::thread::scope(|scope| {
        let panels = &panels;
        let handles: Vec<_> = ranges.map(|range| scope.spawn(move || over(panels, weight, features, range, with_sums))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let first = found.remove(0);
    joined(first, &found, rows, features, with_sums)
}

/// The pass over a range of words.
fn over(panels: &[Panel], weight: &[f32], features: usize, words: Range<usize>, with_sums: bool) -> Vec<State> {
    let mut states: Vec<State> = panels
        .iter()
        .map(|panel| State {
            reference: [f32::NEG_INFINITY; WIDTH * LANES],
            total: [0.0; WIDTH * LANES],
            sums: vec![0.0; if with_sums { panel.numbers.len() } else { 0 }],
        })
        .collect();
    let at_once = (BLOCK_BYTES / (4 * features) / HEIGHT * HEIGHT).clamp(2 * HEIGHT, 12 * HEIGHT);
    let mut logits = vec![0.0; at_once * WIDTH * LANES];
    for start in words.clone().step_by(at_once) {
        let block = &weight[start * features..(start + at_once).min(words.end) * features];
        for (panel, state) in panels.iter().zip(&mut states) {
            #[cfg(target_arch = "x86_64")]
            kernel::block(block, features, panel, state, &mut logits);
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!("`usable` is false here: {} {} {}", block.len(), panel.width, state.sums.len() + logits.len());
        }
    }
    states
}

/// The threads' parts as one, row by row.
fn joined(mut first: Vec<State>, others: &[Vec<State>], rows: usize, features: usize, with_sums: bool) -> Softmax {
    let mut reference = Vec::with_capacity(rows);
    let mut total = Vec::with_capacity(rows);
    let mut sums = vec![0.0; if with_sums { rows * features } else { 0 }];
    for (at, state) in first.iter_mut().enumerate() {
        let lanes = WIDTH * LANES;
        let width = if with_sums { state.sums.len() / features } else { 0 };
        for lane in 0..lanes.min(rows - at * lanes) {
            let parts = || std::iter::once(&*state).chain(others.iter().map(|other| &other[at]));
            let largest = parts().map(|part| part.reference[lane]).fold(f32::NEG_INFINITY, f32::max);
            let scales: Vec<f32> = parts().map(|part| (part.reference[lane] - largest).exp()).collect();
            reference.push(largest);
            total.push(parts().zip(&scales).map(|(part, scale)| part.total[lane] * scale).sum());
            if with_sums {
                let row = (at * lanes + lane) * features;
                for (feature, sum) in sums[row..row + features].iter_mut().enumerate() {
                    *sum = parts().zip(&scales).map(|(part, scale)| part.sums[feature * width + lane] * scale).sum();
                }
            }
        }
    }
    Softmax { reference, total, sums }
}
