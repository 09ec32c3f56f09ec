//! The final output of a command: tables, or one JSON document with `--json`.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::base::error::Error;
use crate::base::printable::printable;
use crate::base::terminal::Terminal;
use crate::cli::text::{Style, columns, grouped};
use crate::cli::wrap::{wrapped, wrapped_command};

/// The first error of writing to stdout. It is reported at the end of the command.
static WRITE_ERROR: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// The real stdout, while file descriptor 1 is redirected to stderr.
static RESERVED_STDOUT: Mutex<Option<File>> = Mutex::new(None);

/// Redirects what scripts, libraries and child processes write to stdout to stderr, so that stdout has only the JSON document.
pub(crate) fn reserve_stdout() {
    // SAFETY: these are descriptors of this process, and nothing else uses the copy.
    let copy = unsafe {
        let copy = libc::dup(1);
        if copy >= 0 {
            libc::fcntl(copy, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::dup2(2, 1);
        }
        (copy >= 0).then(|| File::from_raw_fd(copy))
    };
    *RESERVED_STDOUT.lock().unwrap_or_else(PoisonError::into_inner) = copy;
}

/// Writes text to stdout.
pub(crate) fn text(text: &str) {
    let written = match RESERVED_STDOUT.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(stdout) => stdout.write_all(text.as_bytes()),
        None => Terminal::Stdout.write_all(text.as_bytes()),
    };
    if let Err(cause) = written {
        WRITE_ERROR.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
    }
}

/// Writes a line, or several, to stdout. A terminal gets them broken at spaces.
pub(crate) fn line(line: &str) {
    verbatim(&at_stdout_s_width(line));
}

/// Writes lines to stdout that are read by a program or copied, so that nothing breaks them.
pub(crate) fn verbatim(lines: &str) {
    text(&format!("{lines}\n"));
}

/// Writes a command that can be copied, after a label.
pub(crate) fn command(label: &str, command: &str) {
    let width = stdout_width().unwrap_or(usize::MAX);
    verbatim(&wrapped_command(label, command, width, |text| Style::of_stdout().bold(text)));
}

/// Flushes stdout and returns the error if anything could not be written. A closed pipe (`pyrust-nn sessions | head`) is not an error.
pub(crate) fn end() -> Option<Error> {
    if let Some(stdout) = RESERVED_STDOUT.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: as above.
        unsafe { libc::dup2(stdout.as_raw_fd(), 1) };
    }
    let cause = WRITE_ERROR.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let cause = (cause.kind() != ErrorKind::BrokenPipe).then_some(cause)?;
    Some(Error::new(crate::base::error::Kind::Io, format!("stdout cannot be written: {cause}; redirect it elsewhere")))
}

/// Writes a JSON document to stdout.
pub(crate) fn json(value: &Value) {
    verbatim(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Writes an error with its causes to stderr.
pub(crate) fn error(error: &Error) {
    let word = Style::of_stderr().error("error");
    let causes: String = error.causes.iter().map(|cause| format!("\n  caused by: {}", printable(cause).replace('\n', "\n    "))).collect();
    let text = at_stderr_s_width(&format!("error: {}{causes}", printable(&error.message)));
    drop(writeln!(Terminal::Stderr, "{}", text.replacen("error", &word, 1)));
    if let Some(traceback) = error.traceback.as_ref().filter(|_| error.kind == crate::base::error::Kind::Script) {
        let last: Vec<&str> = traceback.trim_end().lines().rev().take(8).collect();
        let last: String = last.into_iter().rev().map(|line| format!("\n    {}", printable(line))).collect();
        let text = at_stderr_s_width(&format!("  end of the traceback (the full traceback is in pipeline.log):{last}"));
        drop(writeln!(Terminal::Stderr, "{text}"));
    }
}

/// Text with its lines broken at spaces for the terminal as stderr; unchanged elsewhere.
pub(crate) fn at_stderr_s_width(text: &str) -> String {
    let width = columns(Terminal::Stderr).filter(|_| Terminal::Stderr.is_terminal());
    width.map_or_else(|| text.to_string(), |width| wrapped(text, width))
}

/// Text with its lines broken at spaces for the terminal as stdout; unchanged elsewhere.
pub(crate) fn at_stdout_s_width(text: &str) -> String {
    stdout_width().map_or_else(|| text.to_string(), |width| wrapped(text, width))
}

/// Columns of the terminal as stdout.
pub(crate) fn stdout_width() -> Option<usize> {
    columns(Terminal::Stdout).filter(|_| Terminal::Stdout.is_terminal())
}

/// The exit code of a command: that of its error, which is written to stderr, otherwise 0.
pub(crate) fn exit_code(failure: Option<&Error>) -> u8 {
    failure.map_or(0, |failure| {
        error(failure);
        failure.exit_code()
    })
}

/// Writes the fields of an object, one per line, without zeros, empty lists and what is unset.
pub(crate) fn names_and_values(value: &Value) {
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let said = |value: &Value| !value.is_null() && *value != false && value.as_f64() != Some(0.0) && !is_empty(value);
    let shown = |value: &Value| value.as_u64().map_or_else(|| plain_list(value), grouped);
    let fields = value.as_object().into_iter().flatten().filter(|(_, value)| said(value));
    line(&fields.map(|(name, value)| format!("{name:<28} {}", shown(value))).collect::<Vec<_>>().join("\n"));
}

/// A value as text. The elements of a list are separated by commas.
pub(crate) fn plain_list(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(plain_list).collect::<Vec<_>>().join(", "),
        value => value.as_str().map_or_else(|| value.to_string(), |text| printable(text).into_owned()),
    }
}
