//! What a command says in the end: tables for people, one document with `--json`.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::base::error::Error;
use crate::cli::console::colors;

/// What kept stdout from being written, and did not end the command.
static BROKEN: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Stdout, while nobody else may write to it.
static OURS: Mutex<Option<File>> = Mutex::new(None);

/// From now on what scripts, libraries and their children write to stdout goes to stderr: stdout has one document.
pub(crate) fn keep_stdout() {
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
pub(crate) fn text(text: &str) {
    let written = match OURS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(ours) => ours.write_all(text.as_bytes()),
        None => std::io::stdout().write_all(text.as_bytes()),
    };
    if let Err(cause) = written {
        BROKEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
    }
}

/// A line of text on stdout.
pub(crate) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// The end of stdout: the error if anything could not be written. That nobody reads on (`pyrust-nn sessions | head`) is none.
pub(crate) fn end() -> Option<Error> {
    if let Some(ours) = OURS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: as above.
        unsafe { libc::dup2(ours.as_raw_fd(), 1) };
    }
    let flushed = std::io::stdout().flush();
    let cause = BROKEN.lock().unwrap_or_else(PoisonError::into_inner).take().or(flushed.err())?;
    let cause = (cause.kind() != ErrorKind::BrokenPipe).then_some(cause)?;
    Some(Error::new(crate::base::error::Kind::Io, format!("stdout cannot be written: {cause}; send it elsewhere")))
}

/// One JSON document.
pub(crate) fn json(value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    line(&text);
}

/// An error with its causes, on stderr.
pub(crate) fn error(error: &Error) {
    let word = if colors() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    let causes: String = error.causes.iter().map(|cause| format!("\n  caused by: {cause}")).collect();
    drop(writeln!(std::io::stderr(), "{word}: {}{causes}", error.message));
    if let Some(traceback) = error.traceback.as_ref().filter(|_| error.kind == crate::base::error::Kind::Script) {
        let last: Vec<&str> = traceback.trim_end().lines().rev().take(8).collect();
        let last: String = last.into_iter().rev().map(|line| format!("\n    {line}")).collect();
        drop(writeln!(std::io::stderr(), "  the end of the traceback (all of it is in pipeline.log):{last}"));
    }
}

/// Names and values, one a line.
pub(crate) fn names_and_values(value: &Value) {
    let lines = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let lines: Vec<String> = lines.map(|(name, value)| format!("{name:<28} {}", plain_list(value))).collect();
    line(&lines.join("\n"));
}

/// A value as text, a list's elements separated by commas.
pub(crate) fn plain_list(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(plain_list).collect::<Vec<_>>().join(", "),
        value => value.as_str().map_or_else(|| value.to_string(), ToString::to_string),
    }
}

/// Rows under a heading, in columns.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) {
    let widths: Vec<usize> = (0..N).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(cells.join("  ").trim_end());
    }
}
