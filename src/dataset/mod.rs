//! Opens, checks and hands over data sets: from parameters to files, the model's tokenizer and options.

pub(crate) mod entry;
pub(crate) mod explanations;
pub(crate) mod handover;
pub(crate) mod html;
pub(crate) mod open;
pub(crate) mod report;
pub(crate) mod tokenizer;

pub(crate) use handover::{DATASETS, StepDatasets};
pub(crate) use open::{check_paths, open, open_evaluation};
pub use report::CheckReport;
pub(crate) use tokenizer::tokenizer_folder;
