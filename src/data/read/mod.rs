//! Files, compressed or not, into batches of whole items, on all cores; every fault with its line and column.

pub(crate) mod files;
pub(crate) mod problem;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod source;
pub(crate) mod split;
