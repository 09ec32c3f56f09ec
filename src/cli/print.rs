//! What a command says in the end: tables for people, one document with `--json`.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::display::colors;
use crate::error::Error;
use crate::run::Outcome;
use crate::status::{SessionState, StepState};
use crate::summary::{Status, Summary};

/// What kept stdout from being written, and did not end the command.
static BROKEN: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Stdout, while nobody else may write to it.
static OURS: Mutex<Option<File>> = Mutex::new(None);

/// From now on what scripts, libraries and their children write to stdout goes to stderr: stdout has one document.
pub(super) fn keep_stdout() {
    // SAFETY: descriptors of this process; the copy is ours alone.
    let copy = unsafe {
        let copy = libc::dup(1);
        if copy >= 0 {
            libc::fcntl(copy, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::dup2(2, 1);
        }
        (copy >= 0).then(|| File::from_raw_fd(copy))
    };
    *OURS.lock().unwrap_or_else(PoisonError::into_inner) = copy;
}

/// Text on stdout.
pub(super) fn text(text: &str) {
    let written = match OURS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(ours) => ours.write_all(text.as_bytes()),
        None => std::io::stdout().write_all(text.as_bytes()),
    };
    if let Err(cause) = written {
        BROKEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
    }
}

/// A line of text on stdout.
pub(super) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// The end of stdout: the error if anything could not be written. That nobody reads on (`pyrust-nn sessions | head`) is none.
pub(super) fn end() -> Option<Error> {
    if let Some(ours) = OURS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: as above.
        unsafe { libc::dup2(ours.as_raw_fd(), 1) };
    }
    let flushed = std::io::stdout().flush();
    let cause = BROKEN.lock().unwrap_or_else(PoisonError::into_inner).take().or(flushed.err())?;
    let cause = (cause.kind() != ErrorKind::BrokenPipe).then_some(cause)?;
    Some(Error::new(crate::error::Kind::Io, format!("stdout cannot be written: {cause}; send it elsewhere")))
}

/// One JSON document.
pub(super) fn json(value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    line(&text);
}

/// An error with its causes, on stderr.
pub(super) fn error(error: &Error) {
    let word = if colors() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    let causes: String = error.causes.iter().map(|cause| format!("\n  caused by: {cause}")).collect();
    drop(writeln!(std::io::stderr(), "{word}: {}{causes}", error.message));
    if let Some(traceback) = error.traceback.as_ref().filter(|_| error.kind == crate::error::Kind::Script) {
        let last: Vec<&str> = traceback.trim_end().lines().rev().take(8).collect();
        let last: String = last.into_iter().rev().map(|line| format!("\n    {line}")).collect();
        drop(writeln!(std::io::stderr(), "  the end of the traceback (all of it is in pipeline.log):{last}"));
    }
}

/// A step that succeeded, or would (`dry_run`).
pub(super) fn summary(summary: &Summary) {
    let mut lines = vec![format!("session {}, step {}", summary.session, summary.step)];
    if summary.params.get("dry_run") == Some(&Value::Bool(true)) {
        lines = vec![format!("{} would run as {}", summary.task, lines[0])];
        lines.extend(summary.params.iter().map(|(name, value)| format!("  {name:<28} {value}")));
    } else {
        lines.extend(summary.outputs.iter().map(|(name, value)| format!("  {name:<28} {}", place(value))));
        lines.extend(summary.metrics.iter().map(|(name, value)| format!("  {name:<28} {}", figure(value))));
    }
    line(&lines.join("\n"));
}

/// The table of a pipeline.
pub(super) fn pipeline(session: &str, runs: &Path, outcomes: &[Outcome], names: &[String]) {
    let mut rows = vec![["step", "status", "time", "output"].map(String::from)];
    for (i, name) in names.iter().enumerate() {
        rows.push(match outcomes.get(i).map(|one| &one.summary) {
            Some(summary) => [
                name.clone(),
                if summary.status == Status::Success { "success".into() } else { "failure".into() },
                format!("{:.1} s", summary.duration_s),
                summary.outputs.values().map(place).collect::<Vec<_>>().join(", "),
            ],
            None => [name.clone(), "not run".into(), String::new(), String::new()],
        });
    }
    table(&rows);
    line(&format!("session {session} in {}", runs.join(session).display()));
}

/// Names and values, one a line.
pub(super) fn answer(value: &Value) {
    let lines = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let lines: Vec<String> = lines.map(|(name, value)| format!("{name:<28} {}", place(value))).collect();
    line(&lines.join("\n"));
}

pub(super) fn status(state: &SessionState, log: &str, as_json: bool) {
    if as_json {
        return json(
            &serde_json::json!({"session": state.session, "created": state.created, "state": state.state, "steps": state.steps, "log": log}),
        );
    }
    let mut rows = vec![["step", "task", "state", "started"].map(String::from)];
    rows.extend(
        state.steps.iter().map(|step: &StepState| [step.step.clone(), step.task.clone(), step.state.clone(), step.started_at.clone()]),
    );
    table(&rows);
    text(&format!("\n{log}"));
}

pub(super) fn sessions(sessions: &[SessionState], runs: &Path, as_json: bool) {
    if as_json {
        return json(&serde_json::json!(sessions));
    }
    if sessions.is_empty() {
        line(&format!("no sessions in {}", runs.display()));
        return;
    }
    let mut rows = vec![["session", "state", "created", "steps"].map(String::from)];
    rows.extend(sessions.iter().map(|one| {
        let steps: Vec<&str> = one.steps.iter().map(|step| step.step.as_str()).collect();
        [one.session.clone(), one.state.clone(), one.created.clone(), steps.join(", ")]
    }));
    table(&rows);
}

fn place(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(place).collect::<Vec<_>>().join(", "),
        value => value.as_str().map_or_else(|| value.to_string(), ToString::to_string),
    }
}

fn figure(value: &Value) -> String {
    match value.as_f64() {
        Some(x) if value.is_f64() && x.abs() >= 1e-3 && x.abs() < 1e6 => format!("{x:.4}"),
        _ => place(value),
    }
}

fn table<const N: usize>(rows: &[[String; N]]) {
    let widths: Vec<usize> = (0..N).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(cells.join("  ").trim_end());
    }
}
