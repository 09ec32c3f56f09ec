//! Several answers to one question, in columns beside each other.

use std::iter::once;

use crate::cli::text::Style;
use crate::cli::wrap::{padded, tail, width_of, wrapped};

/// One model's answer to the question.
#[derive(Debug)]
pub(super) struct Reply {
    pub name: String,
    pub text: String,
    /// Tokens and rate.
    pub counts: String,
}

/// Columns narrower than this are hard to read; answers then follow one another.
const NARROWEST: usize = 32;
const GAP: usize = 3;

/// The width of each of `count` columns in a terminal, or `None` if they do not fit.
pub(super) fn column_width(terminal: Option<usize>, count: usize) -> Option<usize> {
    let room = terminal?.checked_sub(GAP * count.checked_sub(1)?)?;
    Some(room / count).filter(|width| count > 1 && *width >= NARROWEST)
}

/// The lines of a table with a column for each reply: its model, its answer and its counts.
pub(super) fn table(replies: &[Reply], width: usize, style: Style) -> String {
    let column = |reply: &Reply| {
        let name = vec![style.bold(&tail(&reply.name, width))];
        let counts = wrapped_hard(&reply.counts, width).into_iter().map(|line| style.dim(&line)).collect();
        [name, wrapped_hard(&reply.text, width), counts]
    };
    let columns: Vec<[Vec<String>; 3]> = replies.iter().map(column).collect();
    // Each part begins at the same height in all columns.
    let part = |part: usize| rows(&columns.iter().map(|column| &column[part]).collect::<Vec<_>>(), width);
    (0..3).flat_map(part).collect::<Vec<_>>().join("\n")
}

/// The lines of one part, each with all its columns.
fn rows(part: &[&Vec<String>], width: usize) -> Vec<String> {
    let height = part.iter().map(|lines| lines.len()).max().unwrap_or_default();
    let row = |at: usize| {
        let cells = part.iter().map(|lines| padded(lines.get(at).map_or("", String::as_str), width));
        cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_string()
    };
    (0..height).map(row).collect()
}

/// Lines of at most `width` columns. Words that are longer are broken.
fn wrapped_hard(text: &str, width: usize) -> Vec<String> {
    let lines = wrapped(text, width);
    lines.split('\n').flat_map(|line| broken(line, width)).collect()
}

fn broken(line: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for c in line.chars() {
        let last = lines.last_mut().expect("there is a line");
        if width_of(&format!("{last}{c}")) > width && !last.is_empty() {
            lines.extend(once(c.to_string()));
        } else {
            last.push(c);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(name: &str, text: &str) -> Reply {
        Reply { name: name.into(), text: text.into(), counts: "[3 tokens]".into() }
    }

    #[test]
    fn columns_fit_a_wide_terminal_only() {
        assert_eq!(column_width(Some(80), 2), Some(38));
        assert_eq!(column_width(Some(140), 3), Some(44));
        assert_eq!(column_width(Some(80), 3), None);
        assert_eq!(column_width(None, 2), None);
        assert_eq!(column_width(Some(200), 1), None);
    }

    #[test]
    fn every_line_fits_and_no_word_is_lost() {
        let long = "a".repeat(50);
        let texts =
            ["one two three four five six seven\n\n  indented and long enough to be broken", &format!("東京は日本の首都 {long} end")];
        let table = table(&[reply("base", texts[0]), reply("tuned", texts[1])], 20, Style { colors: false });
        assert!(table.lines().all(|line| width_of(line) <= 43), "{table}");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["base", "tuned"]);
        assert_eq!(lines.last().unwrap().matches("[3 tokens]").count(), 2);
        let column = |from: usize| -> String {
            let cells = lines[1..lines.len() - 1].iter().map(|line| {
                let mut at = 0;
                let taken = line.chars().filter(|c| {
                    let start = at;
                    at += width_of(&c.to_string());
                    start >= from && start < from + 20
                });
                taken.collect::<String>()
            });
            cells.collect::<String>().split_whitespace().collect()
        };
        for (from, text) in [(0, texts[0]), (23, texts[1])] {
            assert_eq!(column(from), text.split_whitespace().collect::<String>());
        }
    }
}
