//! How the report is drawn.

use crate::cli::commands::check::text::Style;

/// How the report is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) style: Style,
    /// Columns of the terminal, or of a usual one.
    pub(crate) width: usize,
    /// All of each sample, with the borders of its tokens.
    pub(crate) verbose: bool,
}
