//! Surveys a data set for `check` without writing rows: problems, lengths and previews.

pub(crate) mod collect;
pub(crate) mod lengths;
pub(crate) mod preview;
