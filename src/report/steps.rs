//! The steps of a session: the graph, and for each its curves, figures, parameters and error.

use serde_json::{Map, Value, json};

use crate::base::error::Kind;
use crate::base::numbers::{bytes, counted, grouped, seconds, significant};
use crate::report::chart::{ChartForm, ChartLine, chart, chart_data};
use crate::report::curves::{Curve, Curves, buckets};
use crate::report::detail::Detail;
use crate::report::graph::graph;
use crate::report::html::cut;
use crate::report::quality::quality;
use crate::report::recorded::{RecordedSession, RecordedStep};
use crate::session::artifact::names_in;

/// Parameters and metrics of a step that are listed. A script may have any number.
const MAX_ROWS: usize = 120;
/// Characters of an error beside its step; the whole is above all steps.
const RESULT: usize = 120;
/// Rows of the table of a curve.
const TABLE_ROWS: usize = 30;
/// Curves that share a drawing, by the name of the first: title and names.
const TOGETHER: [(&str, &[&str]); 6] = [
    ("Loss", &["loss", "eval_loss"]),
    ("Learning rate", &["learning_rate"]),
    ("Gradient norm before clipping", &["grad_norm"]),
    ("Tokens per second", &["tokens_per_second", "target_tokens_per_second"]),
    ("Peak memory", &["peak_memory_bytes"]),
    ("Evaluation loss", &["eval_loss"]),
];

/// The graph and its rows.
pub(crate) fn pipeline(session: &RecordedSession, detail: &Detail) -> Value {
    let steps = &session.steps[session.steps.len().saturating_sub(detail.steps)..];
    let skipped = session.steps.len() - steps.len();
    let mut sources = sources(session, steps);
    let mut rows: Vec<Value> = steps
        .iter()
        .zip(&sources)
        .enumerate()
        .map(|(i, (step, from))| {
            json!({
                "number": skipped + i,
                "name": step.name(),
                "again": step.state.step != step.name(),
                "task": step.state.task,
                "state": step.state.state,
                "word": step.state.state,
                "time": step.state.duration_s.map(seconds),
                "result": step.state.error.as_ref().map(|error| cut(error, RESULT)).or_else(|| Some(quality(step.summary.as_ref()?))),
                "from": from.iter().map(|source| steps[*source].name()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let mut states: Vec<&str> = steps.iter().map(|step| class(&step.state.state)).collect();
    for name in session.not_run.iter().take(detail.steps) {
        rows.push(json!({"number": null, "name": name, "again": false, "task": "", "state": "waiting", "word": "not run", "time": null, "result": null, "from": []}));
        sources.push(Vec::new());
        states.push("waiting");
    }
    json!({"svg": graph(&sources, &states), "rows": rows, "skipped": skipped})
}

/// For each of the last steps of a session those before it, among them, that it uses.
pub(crate) fn sources(session: &RecordedSession, steps: &[RecordedStep]) -> Vec<Vec<usize>> {
    let skipped = session.steps.len() - steps.len();
    let of_step = |(i, step): (usize, &RecordedStep)| {
        let all = step.params.iter().filter(|(name, _)| *name != "runs_dir").flat_map(|(_, value)| names_in(Some(value)));
        let mut from: Vec<usize> = all.filter_map(|name| session.source(name, skipped + i)?.checked_sub(skipped)).collect();
        from.sort_unstable();
        from.dedup();
        from
    };
    steps.iter().enumerate().map(of_step).collect()
}

/// The class of a state in the style sheet. A session may hold any text as a state.
pub(crate) fn class(state: &str) -> &'static str {
    ["success", "failure", "running", "interrupted"].into_iter().find(|known| *known == state).unwrap_or("waiting")
}

/// Everything about one step.
pub(crate) fn step(session: &RecordedSession, number: usize, detail: &Detail) -> Value {
    let step = &session.steps[number];
    let summary = step.summary.as_ref();
    let draws = number + detail.drawn >= session.steps.len();
    let outputs = summary.map(|summary| &summary.outputs).into_iter().flatten();
    json!({
        "number": number,
        "name": step.name(),
        "again": step.state.step != step.name(),
        "task": step.state.task,
        "state": class(&step.state.state),
        "word": step.state.state,
        "time": step.state.duration_s.map(seconds),
        "started": step.state.started_at,
        "charts": if draws { charts(step, detail) } else { Vec::new() },
        "table": if draws && detail.hover > 0 { table(&step.curves) } else { Value::Null },
        "lines": counted(step.curves.lines as u64, "line"),
        "params": if detail.params { values(&step.params) } else { Vec::new() },
        "metrics": if detail.params { summary.map(|summary| values(&summary.metrics)).unwrap_or_default() } else { Vec::new() },
        "outputs": outputs.flat_map(|(_, paths)| names_in(Some(paths))).take(MAX_ROWS).collect::<Vec<_>>(),
    })
}

/// A step that has an error, with it.
pub(crate) fn failed(session: &RecordedSession, number: usize) -> Option<Value> {
    let step = &session.steps[number];
    let error = Some(error(step)).filter(|error| !error.is_null())?;
    Some(json!({"number": number, "name": step.name(), "word": step.state.state, "error": error}))
}

/// The error of a step. One whose process ended without a summary has only a sentence.
fn error(step: &RecordedStep) -> Value {
    let known = step.summary.as_ref().and_then(|summary| summary.error.as_ref()).filter(|_| !step.succeeded());
    match (known, &step.state.error) {
        (Some(error), _) => json!({
            "kind": error.kind.name(),
            "message": error.message,
            "causes": error.causes.iter().take(MAX_ROWS).collect::<Vec<_>>(),
            "traceback": error.traceback.as_ref().filter(|_| error.kind != Kind::Interrupted), // it tells where, not why
        }),
        (None, Some(message)) => json!({"kind": null, "message": message, "causes": [], "traceback": null}),
        (None, None) => Value::Null,
    }
}

/// Names and values as text; what is null is left out.
fn values(all: &Map<String, Value>) -> Vec<Value> {
    let known = all.iter().filter(|(_, value)| !value.is_null());
    known.take(MAX_ROWS).map(|(name, value)| json!({"name": name, "value": value_text(name, value)})).collect()
}

/// A value as text.
pub(crate) fn value_text(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| value_text(name, item)).collect::<Vec<_>>().join(", "),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(size), _) if name.ends_with("_bytes") => bytes(size),
            (Some(count), _) if name != "seed" => grouped(count),
            (None, Some(real)) if real.fract() == 0.0 && real.abs() < 1e15 => format!("{real}"),
            (None, Some(real)) => significant(real),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// The drawings of a step. Numbers of a user's own script come last, each for itself.
fn charts(step: &RecordedStep, detail: &Detail) -> Vec<Value> {
    let curves = &step.curves;
    let known: Vec<&str> = TOGETHER.iter().flat_map(|(_, names)| *names).copied().collect();
    let mut made: Vec<Value> = Vec::new();
    let mut drawn: Vec<&str> = Vec::new();
    for (title, names) in TOGETHER {
        let lines: Vec<&Curve> = names.iter().filter(|name| !drawn.contains(name)).filter_map(|name| curves.named(name)).collect();
        if names.first().is_some_and(|first| curves.named(first).is_some()) && !lines.is_empty() {
            drawn.extend(names);
            made.push(drawing(title, &lines, step, detail, made.is_empty() && title == "Loss"));
        }
    }
    for curve in curves.drawn().filter(|curve| !known.contains(&curve.name.as_str())).take(detail.own_charts) {
        made.push(drawing(&curve.name, &[curve], step, detail, false));
    }
    made
}

fn drawing(title: &str, curves: &[&Curve], step: &RecordedStep, detail: &Detail, large: bool) -> Value {
    let resumed_at = &step.curves.resumed_at;
    let lines: Vec<ChartLine> = curves.iter().map(|curve| ChartLine { name: &curve.name, points: &curve.points }).collect();
    let (width, height, columns) = if large { (560.0, 230.0, detail.columns) } else { (360.0, 180.0, detail.columns / 2) };
    let hover = if large { detail.hover } else { detail.hover / 2 };
    let bytes = curves[0].name.ends_with("_bytes");
    let form = ChartForm { width, height, columns: columns.max(4), hover, log: false, bytes };
    let data = if large { detail.data } else { detail.data / 4 };
    let positive = curves.iter().flat_map(|curve| &curve.points).all(|(_, value)| *value > 0.0);
    let log = (large && positive).then(|| chart(&format!("{title}, logarithmic"), &lines, resumed_at, ChartForm { log: true, ..form }));
    json!({
        "title": title,
        "large": large,
        "svg": chart(title, &lines, resumed_at, form),
        "data": (data > 0).then(|| chart_data(&lines, data, bytes, &|at| step.tokens_at(at))),
        "log": log,
        "names": if lines.len() > 1 { lines.iter().map(|line| line.name).collect() } else { Vec::new() },
        "resumed": !resumed_at.is_empty(),
    })
}

/// The curves in numbers, at most [`TABLE_ROWS`] of each.
fn table(curves: &Curves) -> Value {
    let shown: Vec<&Curve> = curves.drawn().take(8).collect();
    let Some(longest) = shown.iter().max_by_key(|curve| curve.points.len()) else { return Value::Null };
    let steps = buckets(&longest.points, TABLE_ROWS);
    let rows: Vec<Value> = steps
        .iter()
        .map(|bucket| {
            let cells = shown.iter().map(|curve| {
                let at = curve.points.partition_point(|(step, _)| *step <= bucket.step).checked_sub(1)?;
                let value = curve.points[at].1;
                Some(if curve.name.ends_with("_bytes") && value >= 0.0 { bytes(value as u64) } else { significant(value) })
            });
            json!({"step": significant(bucket.step), "cells": cells.collect::<Vec<_>>()})
        })
        .collect();
    json!({"names": shown.iter().map(|curve| curve.name.as_str()).collect::<Vec<_>>(), "rows": rows})
}
