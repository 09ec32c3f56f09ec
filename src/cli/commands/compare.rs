//! `compare`: shows what differs between sessions.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::base::numbers::significant;
use crate::base::{error, files};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::text::{Style, columns, cut, visible};
use crate::report::{ComparedCurve, Comparison, compare};
use crate::session::runs_dir;

/// Columns of a sparkline, and of the output where it is no terminal.
const SPARKLINE: usize = 32;
const WIDTH: usize = 140;

/// Show what differs between sessions: parameters, data, versions, metrics, proofs and curves
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Names of the sessions, two or more
    #[arg(required = true, num_args = 2.., value_name = "SESSION")]
    sessions: Vec<String>,
    /// Write the comparison as one HTML file, with the curves over one another
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl CompareArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        if let Some(path) = self.html.as_deref().filter(|path| path.is_dir()) {
            return Err(error::usage(format!("--html {} is a folder; give the path of a file", path.display())));
        }
        let comparison = compare(&runs_dir(global.runs_dir.as_deref()), &self.sessions)?;
        if let Some(path) = &self.html {
            files::write_whole(path, comparison.to_html()?.as_bytes())?;
        }
        if global.json {
            output::json(&comparison.to_json());
        } else {
            print(&comparison);
        }
        Ok(0)
    }
}

fn print(comparison: &Comparison) {
    let style = Style::of_stdout();
    if comparison.groups.is_empty() {
        output::line("nothing differs");
    }
    let width = columns(libc::STDOUT_FILENO).unwrap_or(WIDTH);
    for group in &comparison.groups {
        let title = group.step.as_ref().map_or_else(String::new, |step| format!("{}: ", visible(step)));
        output::line(&style.bold(&format!("{title}{}", group.part)));
        let mut rows = vec![[vec![String::new()], comparison.sessions.clone()].concat()];
        rows.extend(group.rows.iter().map(|row| {
            let cells = row.texts().into_iter().map(|text| text.replace('\n', " "));
            std::iter::once(row.name.clone()).chain(cells).collect()
        }));
        print_rows(&rows, width);
        output::line("");
    }
    for curve in comparison.curves.iter().filter(|curve| ["loss", "eval_loss"].contains(&curve.name.as_str())) {
        output::line(&style.bold(&format!("{}: {}", visible(&curve.step), curve.name)));
        print_rows(&sparklines(curve, &comparison.sessions), width);
        output::line("");
    }
}

/// Writes rows of any number of cells in columns. A cell is cut where the line would be longer than `width`.
fn print_rows(rows: &[Vec<String>], width: usize) {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let most = (width.saturating_sub(4) / count.max(1)).max(12);
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| cut(&visible(cell), most.max(SPARKLINE))).collect()).collect();
    let widths: Vec<usize> =
        (0..count).map(|i| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        output::line(&cut(&format!("  {}", cells.join("  ").trim_end()), width));
    }
}

/// A line for each session: its name, its curve on the scale of all, its first and last value.
fn sparklines(one: &ComparedCurve, sessions: &[String]) -> Vec<Vec<String>> {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = || one.curves.iter().flatten().flat_map(|curve| &curve.points).map(|(_, value)| *value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let end = one.curves.iter().flatten().filter_map(|curve| curve.points.last()).map(|(step, _)| *step).fold(1.0, f64::max);
    let line = |points: &[(f64, f64)]| -> String {
        let at = |i: usize| points.partition_point(|(step, _)| *step <= end * (i + 1) as f64 / SPARKLINE as f64);
        let last = points.last().map_or(0.0, |(step, _)| *step);
        let columns = (0..SPARKLINE).filter(|i| end * *i as f64 / SPARKLINE as f64 <= last);
        let heights = columns.map(|i| at(i).checked_sub(1).map_or(points[0].1, |i| points[i].1));
        heights.map(|value| BLOCKS[((value - low) / (high - low).max(f64::MIN_POSITIVE) * 7.0).round() as usize % 8]).collect()
    };
    let rows = one.curves.iter().zip(sessions).filter_map(|(curve, session)| {
        let points = &curve.as_ref()?.points;
        let (first, last) = (points.first()?.1, points.last()?.1);
        Some(vec![session.clone(), line(points), format!("{} → {}", significant(first), significant(last))])
    });
    rows.collect()
}
