//! Rows side by side in registers, and what is known of them so far.

use crate::kernels::LANES;

/// Registers of rows that go together.
pub(crate) const WIDTH: usize = 3;
/// Words whose numbers are held in registers together.
pub(crate) const HEIGHT: usize = 8;
/// Bytes of the matrix that are used for all rows before the next; they stay in a core's cache, with room for the rows' share.
pub(crate) const BLOCK_BYTES: usize = 192 << 10;

/// Some rows: number `feature` of all of them lies in `width` registers one behind the other.
pub(crate) struct Panel {
    pub(crate) width: usize,
    pub(crate) numbers: Vec<f32>,
}

/// What a thread knows of a panel's rows, lane by lane.
pub(crate) struct State {
    pub(crate) reference: [f32; WIDTH * LANES],
    pub(crate) total: [f32; WIDTH * LANES],
    /// As `Panel::numbers`.
    pub(crate) sums: Vec<f32>,
}

pub(crate) fn panels(hidden: &[f32], features: usize) -> Vec<Panel> {
    let rows = hidden.len() / features;
    let starts = (0..rows).step_by(WIDTH * LANES);
    starts
        .map(|start| {
            let rows = start..(start + WIDTH * LANES).min(rows);
            let width = rows.len().div_ceil(LANES);
            let mut numbers = vec![0.0; features * width * LANES];
            for (lane, row) in rows.enumerate() {
                for (feature, &number) in hidden[row * features..(row + 1) * features].iter().enumerate() {
                    numbers[feature * width * LANES + lane] = number;
                }
            }
            Panel { width, numbers }
        })
        .collect()
}
