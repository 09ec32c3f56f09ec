//! Samples of token ids and labels: prepared on all cores, stored as Arrow in the cache.

pub(crate) mod arrow;
pub(crate) mod batch;
pub(crate) mod cache;
pub(crate) mod collector;
pub(crate) mod compare;
pub(crate) mod counts;
pub(crate) mod findings;
pub(crate) mod options;
pub(crate) mod sample;
pub(crate) mod selection;
pub(crate) mod spans;
pub(crate) mod text_checks;
pub(crate) mod turn_kinds;
pub(crate) mod workers;
