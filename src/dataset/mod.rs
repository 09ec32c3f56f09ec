//! Opens, checks and hands over data sets: from parameters to files, the model's tokenizer and options.

pub(crate) mod added_tokens;
pub(crate) mod entry;
pub(crate) mod explanations;
pub(crate) mod handover;
pub(crate) mod html;
pub(crate) mod open;
pub(crate) mod report;
pub(crate) mod tokenizer;

pub(crate) use added_tokens::with_added_tokens;
pub(crate) use handover::StepDatasets;
pub(crate) use open::{DATASETS, IMATRIX_DATASET, check_paths, is_foreign, names_dataset, open, open_evaluation, with_revisions};
pub use report::CheckReport;
pub(crate) use tokenizer::tokenizer_folder;
