//! From names and parameters to a data set that can be prepared or checked: files, the model's tokenizer, options.

pub(crate) mod open;
pub(crate) mod report;

pub(crate) use open::{open, prepare_ahead};
pub use report::CheckReport;
