//! Inputs of the attention kernel: the shape of a packed batch, one head of one row, and a thread's buffers.

use crate::kernels::LANES;

/// Queries of a block, which are processed together.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) const QUERY_BLOCK: usize = 36;

/// One attention head of one row: the unit of work of a thread.
#[derive(Debug)]
pub(crate) struct AttentionHead {
    /// Index of the row's first token in the packed batch.
    pub(crate) first_token: usize,
    /// Tokens of the row.
    pub(crate) length: usize,
    /// Index of the query head.
    pub(crate) index: usize,
    /// Features of a head.
    pub(crate) features: usize,
}

/// A thread's buffers, reused from head to head.
#[derive(Debug, Default)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct ThreadBuffers {
    /// Transposed keys of a head, [features, tokens]. Tokens are padded with zeros to whole registers.
    pub(crate) keys: Vec<f32>,
    /// Transposed values of a head, in the same layout as `keys`.
    pub(crate) values: Vec<f32>,
    /// [queries, keys] of a block: scores, which become attention weights in place.
    pub(crate) weights: Vec<f32>,
    /// [queries, keys] of a block: gradients of the weights, which become gradients of the query-key products in place.
    pub(crate) weight_grads: Vec<f32>,
}

/// Shape and parameters of causal attention over packed rows.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Tokens of each row. Rows are packed one after the other and do not attend to each other.
    pub lengths: &'a [usize],
    /// Query heads.
    pub heads: usize,
    /// Key and value heads. Each serves `heads / key_heads` consecutive query heads.
    pub key_heads: usize,
    /// Features of a head.
    pub features: usize,
    /// Factor of the query-key products.
    pub scale: f32,
    /// Tokens that a token attends to at most, itself being the last of them.
    pub window: usize,
}

/// Whether the kernel supports heads with this number of features on this processor.
pub fn usable(features: usize) -> bool {
    crate::kernels::usable() && features > 0 && features.is_multiple_of(LANES)
}
