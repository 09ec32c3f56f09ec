//! The page of a session: `report.html` in its folder.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::base::clock::now;
use crate::base::files;
use crate::base::numbers::{grouped, significant};
use crate::report::answers::answers;
use crate::report::curve_files::CurveFiles;
use crate::report::detail::{DETAILS, Detail};
use crate::report::environment::{commands, environment};
use crate::report::files_made::files_made;
use crate::report::html::{render, templates};
use crate::report::lineage::{lineage, names};
use crate::report::overview::{findings, signed, trainings, verdict};
use crate::report::proofs;
use crate::report::recorded::{RecordedSession, RecordedStep};
use crate::report::steps::{failed, pipeline, step};
use crate::report::training_files::{SAMPLE_TOKENS, before_and_after, data_shown, promised};
use crate::session::existing_session::existing_session;

/// The file in a session's folder.
pub(crate) const REPORT: &str = "report.html";
/// A page is smaller, whatever the session holds.
const MAX_BYTES: usize = 2_000_000;
/// Rows of a table.
const MAX_ROWS: usize = 200;

/// Writes the report of a session into its folder and returns its path.
///
/// # Errors
/// Kind `usage` if there is no such session, `input` if its session.json is damaged, `io` if the page cannot be written.
pub(crate) fn write_report(runs: &Path, session: &str) -> Result<PathBuf> {
    existing_session(runs, session)?; // its message has the folder as it was given
    let runs = std::path::absolute(runs)?;
    let recorded = RecordedSession::read(&runs, session)?;
    let path = recorded.folder.join(REPORT);
    files::write_whole(&path, page(&recorded, &runs)?.as_bytes())?;
    Ok(path)
}

/// The report of a session as it is now, without writing it.
///
/// # Errors
/// Those of [`write_report`], besides `io`.
pub(crate) fn report_page(runs: &Path, session: &str) -> Result<String> {
    page(&RecordedSession::read(runs, session)?, runs)
}

/// Writes the report at the end of a step, which never fails because of it: the log says why there is none.
pub(crate) fn write_report_quietly(runs: &Path, session: &str) {
    // Neither an error nor a fault in this part of the program may change how a step ended.
    let written = std::panic::catch_unwind(AssertUnwindSafe(|| write_report(runs, session)));
    match written {
        Ok(Ok(path)) => debug!("report: {}", path.display()),
        Ok(Err(cause)) => warning!("{REPORT} of session {session} was not written: {cause:#}"),
        Err(_) => warning!("{REPORT} of session {session} was not written: the program has a fault there; the step is not affected"),
    }
}

/// The page, with as much detail as fits.
fn page(session: &RecordedSession, runs: &Path) -> Result<String> {
    for detail in &DETAILS {
        let mut parts = parts(session, &values(session, runs, detail), detail)?.into_iter();
        let head = parts.next().map(|part| part.html);
        let parts: String = parts.map(|part| part.html).collect();
        let values = json!({"session": session.state.session, "written": minutes(&now()), "head": head, "parts": parts});
        let page = render("report.html", &values, detail.text)?;
        if page.len() < MAX_BYTES {
            return Ok(page);
        }
    }
    anyhow::bail!("the session has too much to show in {} bytes", grouped(MAX_BYTES as u64))
}

/// An element of a page that can be replaced by itself: that with this id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub id: String,
    pub html: String,
}

/// A report that a page shows while it grows.
#[derive(Debug)]
pub(crate) struct LiveReport {
    pub parts: Vec<Part>,
    pub is_running: bool,
    /// Whether `resume` has something to do.
    pub can_resume: bool,
}

/// The report of a session as it is now.
///
/// # Errors
/// Kind `usage` if there is no such session, `input` if its session.json is damaged.
pub(crate) fn live_report(runs: &Path, session: &str, curves: &CurveFiles) -> Result<LiveReport> {
    let recorded = RecordedSession::read_with(runs, session, curves)?;
    let detail = &DETAILS[0];
    let mut values = values(&recorded, runs, detail);
    values["live"] = true.into();
    if recorded.state.state == "running" {
        values["verdict"]["sentence"] = "A step is running; this page follows it.".into();
    }
    // A server of pages does not hand out a session's files.
    for file in values["made"]["files"].as_array_mut().into_iter().flatten() {
        file["link"] = Value::Null;
    }
    Ok(LiveReport {
        parts: parts(&recorded, &values, detail)?,
        is_running: recorded.state.state == "running",
        can_resume: !values["verdict"]["resume"].is_null(),
    })
}

/// The parts of a page: the head first, a part for each step.
fn parts(session: &RecordedSession, values: &Value, detail: &Detail) -> Result<Vec<Part>> {
    let templates = templates(detail.text)?;
    let part = |name: &str| -> Result<Part> {
        Ok(Part { id: format!("part-{name}"), html: templates.render(&format!("part_{name}.html"), values)? })
    };
    let mut parts = vec![part("head")?, part("overview")?, part("pipeline")?];
    for number in session.steps.len().saturating_sub(detail.steps)..session.steps.len() {
        let html = templates.render("part_step.html", &json!({"one": step(session, number, detail)}))?;
        parts.push(Part { id: format!("part-step-{number}"), html });
    }
    parts.push(part("rest")?);
    Ok(parts)
}

/// Everything that the parts of a page show, besides those of the steps.
fn values(session: &RecordedSession, runs: &Path, detail: &Detail) -> Value {
    let shown = session.steps.len().saturating_sub(detail.steps)..session.steps.len();
    let steps = &session.steps[shown.clone()];
    let each = |rows: &dyn Fn(&RecordedStep) -> Vec<Value>| steps.iter().flat_map(rows).take(MAX_ROWS).collect::<Vec<_>>();
    let warnings = session.warnings.iter().rev().take(50).rev();
    json!({
        "session": session.state.session,
        "created": minutes(&session.state.created),
        // Steps before it have no section to link to.
        "first": shown.start,
        "verdict": verdict(session),
        "trainings": trainings(session),
        "findings": findings(session),
        "made": files_made(session, runs),
        "pipeline": pipeline(session, detail),
        "errors": shown.filter_map(|number| failed(session, number)).collect::<Vec<_>>(),
        "data": each(&|step| data(step)),
        "before_after": steps.iter().filter_map(|step| before_and_after(step, detail.answers)).take(MAX_ROWS / 10).collect::<Vec<_>>(),
        "data_shown": data_shown(steps, detail.answers.min(3)),
        "sample_tokens": SAMPLE_TOKENS,
        "promised": each(&|step| promised(session, step)),
        "answers": steps.iter().filter_map(|step| answers(step, detail.answers)).take(MAX_ROWS / 10).collect::<Vec<_>>(),
        "proofs": each(&proofs::rows),
        "sizes": each(&|step| sizes(step)),
        "forgetting": each(&forgetting),
        "lineage": lineage(session),
        "environment": environment(session),
        "commands": commands(session),
        "warnings": warnings.map(|(text, count)| json!({"text": text, "count": count})).collect::<Vec<_>>(),
    })
}

/// A recorded time without seconds: `2026-01-31 08:15 UTC`.
fn minutes(time: &str) -> String {
    match time.split_once('T').zip(time.get(11..16)) {
        Some(((day, _), minute)) if time.ends_with('Z') => format!("{day} {minute} UTC"),
        _ => time.to_string(),
    }
}

/// The figures of a training's data set.
fn data(step: &RecordedStep) -> Vec<Value> {
    let Some(conversations) = step.count("conversations") else { return Vec::new() };
    let count = |name: &str| step.count(name).map_or_else(|| "–".to_string(), grouped);
    let hashes = step.inputs.get("dataset_path").and_then(Value::as_object).into_iter().flatten().take(20);
    let files: Vec<Value> = hashes.map(|(path, about)| json!({"path": path, "sha256": about["sha256"]})).collect();
    let names = ["rows", "tokens", "target_tokens", "longest", "eval_rows", "truncated", "dropped", "duplicates"];
    let cells: Vec<String> = names.into_iter().map(count).collect();
    vec![json!({
        "step": step.name(),
        "data": names_of(step),
        "conversations": grouped(conversations),
        "cells": cells,
        "files": files,
    })]
}

fn names_of(step: &RecordedStep) -> String {
    names(step.params.get("dataset_path").unwrap_or(&Value::Null))
}

/// What a quantization saved.
fn sizes(step: &RecordedStep) -> Vec<Value> {
    let (Some(before), Some(after)) = (step.count("size_before_bytes"), step.count("size_after_bytes")) else { return Vec::new() };
    let bytes = crate::base::numbers::bytes;
    let ratio = before as f64 / after.max(1) as f64;
    vec![json!({"step": step.name(), "before": bytes(before), "after": bytes(after), "ratio": significant(ratio)})]
}

/// The forgetting table of a continued adapter.
fn forgetting(step: &RecordedStep) -> Vec<Value> {
    let rows = step.summary.as_ref().map(|summary| &summary.result["forgetting"]).and_then(Value::as_array);
    let number = |value: &Value| value.as_f64().map_or_else(|| "–".to_string(), significant);
    let row = |row: &Value| {
        json!({
            "step": step.name(),
            "stage": row["stage"],
            "data": names(&row["dataset_path"]),
            "rows": row["rows"].as_u64().map(grouped),
            "before": number(&row["loss_before"]),
            "after": number(&row["loss_after"]),
            "forgotten": row["forgotten"].as_f64().map(signed),
        })
    };
    rows.into_iter().flatten().map(row).collect()
}
