//! A step's summary as a notebook shows it: a table and the loss, with a style of its own that leaves the rest of the notebook alone.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::base::numbers::seconds;
use crate::report::chart::{ChartForm, ChartLine, chart};
use crate::report::curves::Curves;
use crate::report::html::render;
use crate::report::quality::quality;
use crate::report::steps::value_text;
use crate::session::Summary;
use crate::session::artifact::names_in;
use crate::session::names::check_name;

const FORM: ChartForm = ChartForm { width: 560.0, height: 200.0, columns: 200, hover: 60, log: false, bytes: false };
/// Characters of a text, and rows of the table.
const TEXT: usize = 400;
const MAX_ROWS: usize = 40;

/// HTML of a summary. The curve is that of the step's metrics.jsonl in `runs`, if it is still there.
pub(crate) fn summary_html(summary: &Summary, runs: &Path) -> Result<String> {
    let named = check_name("session", &summary.session).and_then(|()| check_name("step", &summary.step));
    let curves = named.map(|()| Curves::read(&runs.join(&summary.session).join(&summary.step).join("metrics.jsonl"))).unwrap_or_default();
    let loss = ["loss", "eval_loss"].into_iter().filter_map(|name| curves.named(name));
    let lines: Vec<ChartLine> = loss.map(|curve| ChartLine { name: &curve.name, points: &curve.points }).collect();
    let svg = (!lines.is_empty()).then(|| chart("Loss", &lines, &curves.resumed_at, FORM));
    let metrics = summary.metrics.iter().filter(|(_, value)| value.as_f64() != Some(0.0) && !value.is_null()).take(MAX_ROWS);
    let values = json!({
        "session": summary.session,
        "step": summary.step,
        "task": summary.task,
        "state": summary.state(),
        "time": seconds(summary.duration_s),
        "quality": quality(summary),
        "error": summary.error.as_ref().map(|error| error.message.as_str()),
        "outputs": summary.outputs.values().flat_map(|paths| names_in(Some(paths))).take(MAX_ROWS).collect::<Vec<_>>(),
        "metrics": metrics.map(|(name, value)| json!({"name": name, "value": value_text(name, value)})).collect::<Vec<Value>>(),
        "names": if lines.len() > 1 { lines.iter().map(|line| line.name).collect() } else { Vec::new() },
        "svg": svg,
    });
    render("summary.html", &values, TEXT)
}
