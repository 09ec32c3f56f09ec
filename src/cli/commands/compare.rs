//! `compare`: shows what differs between sessions.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::base::numbers::significant;
use crate::base::{error, files};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::text::{Style, visible};
use crate::cli::wrap::{padded, width_of, wrapped, wrapped_below};
use crate::report::{ComparedCurve, Comparison, compare};
use crate::session::runs_dir;

/// Columns of a sparkline at most and at least, and of the output where it is no terminal.
const SPARKLINE: usize = 32;
const LEAST: usize = 8;
const WIDTH: usize = 140;

const INDENT: usize = 2;
const GAP: usize = 2;

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
    if comparison.is_empty() {
        output::line("nothing differs");
    }
    let width = output::stdout_width().unwrap_or(WIDTH);
    let group = |title: &str, lines: Vec<String>| {
        output::line(&style.bold(&visible(title)));
        output::verbatim(&lines.join("\n"));
        output::line("");
    };
    if !comparison.missing.is_empty() {
        let line =
            |(sessions, steps): (&[String], Vec<&str>)| visible(&format!("  missing in {}:  {}", sessions.join(", "), steps.join(", ")));
        group("steps", comparison.missing_together().into_iter().map(|one| wrapped(&line(one), width)).collect());
    }
    for one in &comparison.groups {
        let title = one.step.as_ref().map_or_else(String::new, |step| format!("{step}: "));
        let rows =
            one.rows.iter().map(|row| (visible(&row.name), row.texts().iter().map(|text| visible(&text.replace('\n', " "))).collect()));
        group(&format!("{title}{}", one.part), value_lines(&comparison.sessions, &rows.collect::<Vec<_>>(), width));
    }
    for curve in comparison.curves.iter().filter(|curve| ["loss", "eval_loss"].contains(&curve.name.as_str())) {
        group(&format!("{}: {}", curve.step, curve.name), sparklines(curve, &comparison.sessions, width));
    }
}

/// A column for each session, and rows of a name and the session's values. A row without room for this has its values below its name, one
/// a line, so that nothing is left out.
fn value_lines(sessions: &[String], rows: &[(String, Vec<String>)], width: usize) -> Vec<String> {
    let names = rows.iter().map(|(name, _)| width_of(name)).max().unwrap_or(0);
    let room = width.saturating_sub(INDENT + names);
    let share = (room / sessions.len().max(1)).saturating_sub(GAP);
    let columns = |most: usize| -> Vec<usize> {
        let fitting = || rows.iter().map(|(_, cells)| cells.as_slice()).chain([sessions]).filter(|cells| fit(cells, most));
        (0..sessions.len()).map(|i| fitting().map(|cells| width_of(&cells[i])).max().unwrap_or(0)).collect()
    };
    let all_fit = columns(usize::MAX).iter().map(|width| width + GAP).sum::<usize>() <= room;
    let most = if all_fit { usize::MAX } else { share };
    let widths = columns(most);
    let in_columns = |name: &str, cells: &[String]| {
        let cells: String = cells.iter().zip(&widths).map(|(cell, width)| format!("{}{}", " ".repeat(GAP), padded(cell, *width))).collect();
        format!("{}{}{cells}", " ".repeat(INDENT), padded(name, names)).trim_end().to_string()
    };
    let is_table = fit(sessions, most);
    let mut lines: Vec<String> = is_table.then(|| in_columns("", sessions)).into_iter().collect();
    let session_width = sessions.iter().map(|name| width_of(name)).max().unwrap_or(0);
    for (name, cells) in rows {
        if is_table && fit(cells, most) {
            lines.push(in_columns(name, cells));
            continue;
        }
        lines.push(format!("{}{name}", " ".repeat(INDENT)));
        for (session, cell) in sessions.iter().zip(cells) {
            let line = format!("{}{}{}{cell}", " ".repeat(2 * INDENT), padded(session, session_width), " ".repeat(GAP));
            lines.extend(wrapped_below(&line, width, |_| 2 * INDENT + session_width + GAP).split('\n').map(String::from));
        }
    }
    lines
}

fn fit(cells: &[String], most: usize) -> bool {
    cells.iter().all(|cell| width_of(cell) <= most)
}

/// A line for each session: its name, its curve on the scale of all, its first and last value. A long name has a line of its own.
fn sparklines(one: &ComparedCurve, sessions: &[String], width: usize) -> Vec<String> {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = || one.curves.iter().flatten().flat_map(|curve| &curve.points).map(|(_, value)| *value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let end = one.curves.iter().flatten().filter_map(|curve| curve.points.last()).map(|(step, _)| *step).fold(1.0, f64::max);
    let line = |points: &[(f64, f64)], columns: usize| -> String {
        // One value is no curve.
        if points.len() < 2 {
            return String::new();
        }
        let at = |i: usize| points.partition_point(|(step, _)| *step <= end * (i + 1) as f64 / columns as f64);
        let last = points.last().map_or(0.0, |(step, _)| *step);
        let drawn = (0..columns).filter(|i| end * *i as f64 / columns as f64 <= last);
        let heights = drawn.map(|i| at(i).checked_sub(1).map_or(points[0].1, |i| points[i].1));
        heights.map(|value| BLOCKS[((value - low) / (high - low).max(f64::MIN_POSITIVE) * 7.0).round() as usize % 8]).collect()
    };
    let drawn = one.curves.iter().zip(sessions).filter_map(|(curve, session)| {
        let points = curve.as_ref()?.points.as_slice();
        let ((step, first), (_, last)) = (points.first()?, points.last()?);
        let ends = match points.len() {
            1 => format!("{} at step {step}", significant(*first)),
            _ => format!("{} → {}", significant(*first), significant(*last)),
        };
        Some((session, points, ends))
    });
    let drawn: Vec<_> = drawn.collect();
    let names = drawn.iter().map(|(name, ..)| width_of(name)).max().unwrap_or(0);
    let ends = drawn.iter().map(|(.., ends)| width_of(ends)).max().unwrap_or(0);
    let beside = width.saturating_sub(INDENT + names + GAP + ends + GAP);
    let below = width.saturating_sub(2 * INDENT + ends + GAP);
    let columns = if beside < LEAST { below } else { beside }.clamp(LEAST, SPARKLINE);
    let lines = drawn.iter().flat_map(|(name, points, ends)| {
        let curve = format!("{}  {ends}", padded(&line(points, columns), columns));
        if beside < LEAST { vec![format!("  {name}"), format!("    {curve}")] } else { vec![format!("  {}  {curve}", padded(name, names))] }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::curves::Curve;

    fn rows(values: [[&str; 3]; 3]) -> Vec<(String, Vec<String>)> {
        values.map(|[name, first, second]| (name.to_string(), vec![first.to_string(), second.to_string()])).to_vec()
    }

    #[test]
    fn a_row_without_room_has_its_values_below_its_name() {
        let rows = rows([["lora_rank", "8", "16"], ["dataset_path", "/data/one.jsonl", "/data/another/file.jsonl"], ["seed", "1", "2"]]);
        let sessions = ["first", "second"].map(String::from);
        assert_eq!(value_lines(&sessions, &rows, 80)[2], "  dataset_path  /data/one.jsonl  /data/another/file.jsonl");
        assert_eq!(
            value_lines(&sessions, &rows, 40),
            [
                "                first  second",
                "  lora_rank     8      16",
                "  dataset_path",
                "    first   /data/one.jsonl",
                "    second  /data/another/file.jsonl",
                "  seed          1      2"
            ]
        );
        // The names of the sessions themselves have no room.
        let sessions = ["20261126-100001-first", "20261126-100002-second"].map(String::from);
        assert_eq!(
            value_lines(&sessions, &rows, 40)[..3],
            ["  lora_rank", "    20261126-100001-first   8", "    20261126-100002-second  16"]
        );
    }

    #[test]
    fn a_curve_of_one_value_is_not_drawn() {
        let curve = |points: &[(f64, f64)]| Some(Curve { name: "loss".into(), points: points.to_vec() });
        let one = ComparedCurve {
            step: "tune".into(),
            name: "loss".into(),
            curves: vec![curve(&[(5.0, 7.25)]), curve(&[(5.0, 7.0), (10.0, 6.0)])],
        };
        let lines = sparklines(&one, &["a", "b"].map(String::from), 80);
        assert!(lines[0].ends_with("7.25 at step 5") && !lines[0].contains('▇') && lines[1].contains('▇'), "{lines:?}");
    }

    #[test]
    fn every_value_is_there_at_any_width() {
        let rows = rows([["lora_rank", "8", "16"], ["dataset_path", "one two", "three/four five"], ["模型", "名称", "–"]]);
        let sessions = ["first", "second"].map(String::from);
        for width in 1..90 {
            let lines = value_lines(&sessions, &rows, width);
            let shown: String = lines.concat().chars().filter(|c| *c != ' ').collect();
            assert!(rows.iter().flat_map(|(_, cells)| cells).all(|cell| shown.contains(&cell.replace(' ', ""))), "{width}: {lines:?}");
            assert!(width < 40 || lines.iter().all(|line| width_of(line) <= width), "{width}: {lines:?}");
        }
    }
}
