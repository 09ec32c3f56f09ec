//! A data set looked at without writing rows: faults, lengths and previews, for `check`.

pub(crate) mod collect;
pub(crate) mod lengths;
pub(crate) mod preview;
