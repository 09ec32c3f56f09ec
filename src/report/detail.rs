//! How much of a session a page shows. A page that is too large is made again with less.

/// Limits of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detail {
    /// Points of a large drawing.
    pub columns: usize,
    /// Places of a large drawing that show values.
    pub hover: usize,
    /// Points of a large drawing that the page's script can show; none without it.
    pub data: usize,
    /// Characters of a text.
    pub text: usize,
    /// Answers of a step.
    pub answers: usize,
    /// Steps, the last ones.
    pub steps: usize,
    /// Of these the last ones with drawings.
    pub drawn: usize,
    /// Drawings of a user's own numbers in a step.
    pub own_charts: usize,
    /// Parameters and metrics of each step.
    pub params: bool,
}

/// From everything to what is always small.
pub(crate) const DETAILS: [Detail; 4] = [
    Detail { columns: 320, hover: 100, data: 1200, text: 4000, answers: 5, steps: 1000, drawn: 1000, own_charts: 12, params: true },
    Detail { columns: 160, hover: 20, data: 300, text: 1000, answers: 3, steps: 1000, drawn: 40, own_charts: 6, params: true },
    Detail { columns: 60, hover: 0, data: 0, text: 400, answers: 1, steps: 300, drawn: 20, own_charts: 2, params: true },
    Detail { columns: 40, hover: 0, data: 0, text: 120, answers: 0, steps: 200, drawn: 10, own_charts: 0, params: false },
];
