//! A panel: rows of hidden states packed for registers, and their running softmax.

use crate::kernels::LANES;

/// Registers across the rows of a full panel, so that it has `PANEL_REGISTERS * LANES` rows.
pub(crate) const PANEL_REGISTERS: usize = 3;
/// Rows of an output tile, which is held in registers: vocabulary tokens for logits, features for weighted sums.
pub(crate) const TILE_ROWS: usize = 8;
/// Bytes of the output matrix that are used for all panels before the next block. A block stays in a core's cache, with room for the
/// panels' data.
pub(crate) const BLOCK_BYTES: usize = 192 << 10;

/// Hidden states packed as [features, `registers * LANES` rows]. Missing rows are zero.
pub(crate) struct RowPanel {
    pub(crate) registers: usize,
    pub(crate) values: Vec<f32>,
    /// The target token of each row.
    pub(crate) targets: Vec<usize>,
}

/// A thread's online softmax of a panel's rows, one lane for each row.
pub(crate) struct RunningSoftmax {
    /// What the exponents are relative to.
    pub(crate) reference: [f32; PANEL_REGISTERS * LANES],
    /// Σ exp(logit - reference).
    pub(crate) total: [f32; PANEL_REGISTERS * LANES],
    /// The target's logit, if the target is in this thread's range of the vocabulary.
    pub(crate) target_logit: [f32; PANEL_REGISTERS * LANES],
    /// Σ exp(logit - reference) W in the layout of `RowPanel::values`. Empty if not requested.
    pub(crate) sums: Vec<f32>,
}

/// Packs `hidden`, [rows, features], into panels, with the rows' targets. Only the last panel may have fewer than `PANEL_REGISTERS` registers.
pub(crate) fn pack_panels(hidden: &[f32], targets: &[usize], features: usize) -> Vec<RowPanel> {
    let rows = hidden.len() / features;
    let starts = (0..rows).step_by(PANEL_REGISTERS * LANES);
    starts
        .map(|start| {
            let rows = start..(start + PANEL_REGISTERS * LANES).min(rows);
            let registers = rows.len().div_ceil(LANES);
            let mut values = vec![0.0; features * registers * LANES];
            for (lane, row) in rows.clone().enumerate() {
                for (feature, &value) in hidden[row * features..(row + 1) * features].iter().enumerate() {
                    values[feature * registers * LANES + lane] = value;
                }
            }
            RowPanel { registers, values, targets: targets[rows].to_vec() }
        })
        .collect()
}
