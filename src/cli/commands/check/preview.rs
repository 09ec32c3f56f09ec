//! Shows a sample with its trained tokens marked: coloured and underlined on a terminal, in ⟦ ⟧ elsewhere.

use crate::cli::commands::check::page::ReportPage;
use crate::cli::text::{counted, grouped, visible};
use crate::cli::wrap::wrapped_below;
use crate::data::Preview;

/// Number of lines shown from the start and the end of a long sample.
const HEAD: usize = 28;
const TAIL: usize = 10;

/// Columns before a line of a sample.
const INDENT: usize = 2;

impl ReportPage {
    pub(crate) fn preview(self, preview: &Preview) -> String {
        let tokens = counted(u64::from(preview.tokens), "token");
        let title = self.style.bold(&format!("sample {}", preview.place()));
        if preview.kept == 0 {
            return format!("{title}  {tokens}, omitted: too long, or no turn to train on");
        }
        let cut = if preview.kept < preview.tokens { format!(", cut to {}", grouped(u64::from(preview.kept))) } else { String::new() };
        let how = if self.style.colors { self.style.target("like this") } else { "in ⟦ ⟧".to_string() };
        // A line of the sample that the terminal has no room for goes on further right.
        let broken = |line: String| {
            wrapped_below(&line, self.line_width.saturating_sub(INDENT), |_| INDENT).split('\n').map(String::from).collect::<Vec<_>>()
        };
        let mut lines: Vec<String> = self.lines(preview).into_iter().flat_map(broken).collect();
        // Without colours the whole sample is shown, so that no bracket loses its counterpart.
        if self.style.colors && !self.verbose && lines.len() > HEAD + TAIL + 1 {
            let left_out = lines.len() - HEAD - TAIL;
            let note = self.style.dim(&format!("… {}; -v shows them …", counted(left_out as u64, "more line")));
            lines.splice(HEAD..HEAD + left_out, [note]);
        }
        let body: Vec<String> = lines.iter().map(|line| format!("{}{line}", " ".repeat(INDENT)).trim_end().to_string()).collect();
        format!("{title}  {tokens}{cut}, {} trained on, {how}\n{}", grouped(u64::from(preview.target_tokens)), body.join("\n"))
    }

    /// The sample's lines. Colour escapes never span lines.
    fn lines(self, preview: &Preview) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut within = false;
        let push = |lines: &mut Vec<String>, text: &str| lines.last_mut().expect("there is a line").push_str(text);
        for (i, piece) in preview.pieces.iter().enumerate() {
            if !self.style.colors && piece.target != within {
                push(&mut lines, if piece.target { "⟦" } else { "⟧" });
                within = piece.target;
            }
            if self.verbose && i > 0 {
                push(&mut lines, &self.style.dim("│"));
            }
            for (number, part) in visible(&piece.text).split('\n').enumerate() {
                if number > 0 {
                    lines.push(String::new());
                }
                if !part.is_empty() {
                    let styled = match (piece.target, piece.control) {
                        (true, true) => self.style.control_target(part),
                        (true, false) => self.style.target(part),
                        (false, _) => self.style.dim(part),
                    };
                    push(&mut lines, &styled);
                }
            }
        }
        if within {
            push(&mut lines, "⟧");
        }
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::Style;
    use crate::data::survey::preview::PreviewPiece;

    fn piece(text: &str, target: bool) -> PreviewPiece {
        PreviewPiece { text: text.into(), tokens: 1, target, control: text.starts_with("<|") }
    }

    fn drawn(pieces: Vec<PreviewPiece>, colors: bool, verbose: bool) -> String {
        drawn_at(usize::MAX, pieces, colors, verbose)
    }

    fn drawn_at(line_width: usize, pieces: Vec<PreviewPiece>, colors: bool, verbose: bool) -> String {
        let preview = Preview { conversation: 0, message: None, tokens: 9, kept: 9, target_tokens: 2, pieces };
        let page = ReportPage { style: Style { colors }, width: 80, line_width, verbose };
        page.preview(&preview).split_once('\n').unwrap().1.to_string()
    }

    #[test]
    fn targets_are_marked_without_colours_and_token_boundaries_are_shown_with_verbose() {
        let pieces =
            || vec![piece("<|im_start|>", false), piece("a\n", false), piece("yes", true), piece("<|im_end|>", true), piece("\n", false)];
        assert_eq!(drawn(pieces(), false, false), "  <|im_start|>a\n  ⟦yes<|im_end|>⟧");
        assert_eq!(drawn(pieces(), false, true), "  <|im_start|>│a\n  ⟦│yes│<|im_end|>⟧│");
    }

    #[test]
    fn escape_sequences_in_the_data_do_not_reach_the_terminal() {
        let text = drawn(vec![piece("\x1b[31m\x07\u{9b}2J\r\u{202e}x", true)], false, false);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'), "{text:?}");
        let text = drawn(vec![piece("\x1b[2Jx\ny", true)], true, false);
        assert!(!text.contains("\x1b[2J"), "{text:?}");
        // Every line resets the colour that it sets.
        assert!(text.lines().all(|line| line.ends_with("\x1b[0m")), "{text:?}");
    }

    #[test]
    fn a_line_is_broken_between_words_and_goes_on_further_right() {
        let words = ["one", " two", " three", "\nnext"].map(|word| piece(word, true)).to_vec();
        assert_eq!(drawn_at(11, words.clone(), false, false), "  ⟦one two\n    three\n  next⟧");
        // Each line sets and resets its colours.
        let text = drawn_at(11, words, true, false);
        assert!(text.lines().all(|line| line.ends_with("\x1b[0m") && line.contains("\x1b[4;94m")), "{text:?}");
    }

    #[test]
    fn a_long_sample_shows_only_its_start_and_end() {
        let long = || vec![piece(&"line\n".repeat(100), false)];
        assert_eq!(drawn(long(), true, false).lines().count(), HEAD + TAIL + 1);
        assert_eq!(drawn(long(), true, true).lines().count(), 100);
        assert_eq!(drawn(long(), false, false).lines().count(), 100);
    }
}
