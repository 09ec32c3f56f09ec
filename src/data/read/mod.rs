//! Reads files, compressed or not, into batches of complete items on all cores. Every problem has its line and column.

pub(crate) mod corruption;
pub(crate) mod files;
pub(crate) mod problem;
pub(crate) mod reader;
pub(crate) mod scanner;
pub(crate) mod size_limits;
pub(crate) mod source;
pub(crate) mod splitter;
pub(crate) mod table;
pub(crate) mod validate_files;
pub(crate) mod zip;
