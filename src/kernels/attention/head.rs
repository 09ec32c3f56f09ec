//! What attention is computed of: rows of tokens, a head of a row, a thread's memory.

use crate::kernels::LANES;

/// Queries that go together.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) const QUERIES: usize = 36;

/// A row's head.
#[derive(Debug)]
pub(crate) struct Head {
    /// The row's first token among all.
    pub(crate) first: usize,
    /// Its tokens.
    pub(crate) length: usize,
    pub(crate) number: usize,
    pub(crate) features: usize,
}

/// A thread's memory, kept from head to head.
#[derive(Debug, Default)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct Scratch {
    /// [features, tokens], filled up with zeros to whole registers.
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    /// [queries, keys]
    pub(crate) weights: Vec<f32>,
    pub(crate) slopes: Vec<f32>,
}

/// What there is to attend with.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Tokens of each row; a row's tokens lie one behind the other, and rows do not see each other.
    pub lengths: &'a [usize],
    pub heads: usize,
    /// Each serves `heads / key_heads` heads that follow one another.
    pub key_heads: usize,
    /// Of a head.
    pub features: usize,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
    /// A token sees so many, itself the last of them.
    pub window: usize,
}

/// Whether heads of so many features are taken on this processor.
pub fn usable(features: usize) -> bool {
    crate::kernels::usable() && features > 0 && features.is_multiple_of(LANES)
}
