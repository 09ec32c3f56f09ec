//! Tables. On a terminal that is too narrow for one, nothing is dropped: a column is shortened, which an ellipsis shows, or columns move below
//! their row, each value after its heading.

use crate::base::terminal::Terminal;
use crate::cli::output;
use crate::cli::text::columns;
use crate::cli::wrap::{padded, tail, width_of, wrapped_below};

/// Columns of a shortened value at least.
const LEAST: usize = 12;

/// Columns between two columns, and where a table would not fit otherwise.
const GAP: usize = 2;
const NARROW_GAP: usize = 1;

/// Writes rows in aligned columns to stdout. The first row is the heading. `flexible` is the column that is shortened first.
pub(crate) fn table<const N: usize>(rows: &[[String; N]], flexible: Option<usize>) {
    for line in lines(rows, flexible, columns(Terminal::Stdout)) {
        output::verbatim(&line);
    }
}

fn lines<const N: usize>(rows: &[[String; N]], flexible: Option<usize>, width: Option<usize>) -> Vec<String> {
    let mut rows = rows.to_vec();
    let mut widths: [usize; N] = std::array::from_fn(|i| rows.iter().map(|row| width_of(&row[i])).max().unwrap_or(0));
    let mut kept: Vec<usize> = (0..N).collect();
    let total = |gap: usize, kept: &[usize], widths: &[usize; N]| kept.iter().map(|i| widths[*i] + gap).sum::<usize>().saturating_sub(gap);
    let fits = |gap: usize| {
        let over = width.map_or(0, |width| total(gap, &kept, &widths).saturating_sub(width));
        over == 0 || flexible.is_some_and(|column| widths[column] >= over + LEAST)
    };
    let gap = if !fits(GAP) && fits(NARROW_GAP) { NARROW_GAP } else { GAP };
    let total = |kept: &[usize], widths: &[usize; N]| total(gap, kept, widths);
    if let Some(width) = width {
        let over = total(&kept, &widths).saturating_sub(width);
        match flexible {
            Some(column) if over > 0 && widths[column] >= over + LEAST => {
                widths[column] -= over;
                for row in &mut rows {
                    row[column] = tail(&row[column], widths[column]);
                }
            }
            Some(column) if over > 0 && column > 0 => kept.retain(|i| *i != column),
            _ => {}
        }
        while kept.len() > 1 && total(&kept, &widths) > width {
            kept.pop();
        }
    }
    let mut lines = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = kept.iter().map(|i| padded(&row[*i], widths[*i])).collect();
        lines.push(cells.join(&" ".repeat(gap)).trim_end().to_string());
        let below = (0..N).filter(|i| !kept.contains(i) && !["", "-"].contains(&row[*i].as_str()));
        for i in below.filter(|_| number > 0) {
            let text = format!("{}{}: {}", " ".repeat(GAP), rows[0][i], row[i]);
            lines.extend(wrapped_below(&text, width.unwrap_or(usize::MAX), |_| 2 * GAP).lines().map(String::from));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<[String; 4]> {
        [
            ["step", "state", "result", "output"],
            ["finetune_full", "success", "loss 7.031 → 0.01861", "finetune_full/model"],
            ["ask", "not run", "", ""],
        ]
        .map(|row| row.map(String::from))
        .to_vec()
    }

    #[test]
    fn a_table_that_fits_is_aligned() {
        for width in [None, Some(65)] {
            assert_eq!(
                lines(&rows(), Some(3), width),
                [
                    "step           state    result                output",
                    "finetune_full  success  loss 7.031 → 0.01861  finetune_full/model",
                    "ask            not run"
                ]
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_shortened_or_moves_below_its_row() {
        assert_eq!(lines(&rows(), Some(3), Some(62))[1], "finetune_full  success  loss 7.031 → 0.01861  …tune_full/model");
        assert_eq!(
            lines(&rows(), Some(3), Some(50)),
            [
                "step           state    result",
                "finetune_full  success  loss 7.031 → 0.01861",
                "  output: finetune_full/model",
                "ask            not run"
            ]
        );
        assert_eq!(
            lines(&rows(), None, Some(30)),
            [
                "step           state",
                "finetune_full  success",
                "  result: loss 7.031 → 0.01861",
                "  output: finetune_full/model",
                "ask            not run"
            ]
        );
    }

    #[test]
    fn the_list_of_sessions_with_ids_of_their_own_fits_eighty_columns() {
        let row = ["20261126-110512-9b12", "interrupted", "…wen/Qwen2.5-0.5B-Instruct", "finetune_lora", "0.1234", "231 kB", "20.8 h"];
        let rows = [["session", "state", "model", "task", "loss", "size", "age"], row].map(|row| row.map(String::from));
        let shown = lines(&rows, Some(2), Some(80));
        assert_eq!(shown[1], "20261126-110512-9b12 interrupted …5B-Instruct finetune_lora 0.1234 231 kB 20.8 h");
        assert!(shown.len() == 2 && shown.iter().all(|line| width_of(line) <= 80), "{shown:?}");
    }

    #[test]
    fn every_value_is_there_at_any_width() {
        for width in 1..90 {
            let shown: String = lines(&rows(), None, Some(width)).concat().chars().filter(|c| *c != ' ').collect();
            for cell in rows()[1..].concat() {
                assert!(shown.contains(&cell.replace(' ', "")), "{cell} at {width}: {shown}");
            }
        }
    }
}
