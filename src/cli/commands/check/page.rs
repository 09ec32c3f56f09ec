//! Layout of the report.

use crate::cli::text::Style;

/// Layout of the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportPage {
    pub(crate) style: Style,
    /// Columns of the terminal, or 80.
    pub(crate) width: usize,
    /// Where lines of a sample are broken: the terminal's columns, or nowhere.
    pub(crate) line_width: usize,
    /// Show whole samples, with token boundaries.
    pub(crate) verbose: bool,
}
