//! The state of sessions and steps, and their logs.
//!
//! It is read from files only, by Rust, without the lock. So it answers while a step runs: importing torch and saving a model hold Python's
//! interpreter lock for up to a second.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::base::clock::seconds_since;
use crate::base::{error, files};
use crate::session::details::{StepDetails, folder_bytes};
use crate::session::lock::lock_owner;
use crate::session::names::{check_name, runs_dir};
use crate::session::record::read_record;
use crate::session::summary::{Status, Summary};

/// The complete log of a session. Runs directory: PYRUST_NN_RUNS, otherwise `runs`.
pub fn get_status(session: &str) -> Result<String> {
    read_log(&runs_dir(None), session, None)
}

/// The last lines of a session's log, or all of it.
pub fn read_log(runs: &Path, session: &str, lines: Option<usize>) -> Result<String> {
    let folder = existing_session(runs, session)?;
    let path = folder.join("pipeline.log");
    let read = match lines {
        None => files::read_own(&path),
        Some(count) => last_lines(&path, count),
    };
    match read {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// What the log has after its first `offset` bytes, to its last complete line; and the bytes up to there.
pub(crate) fn log_after(runs: &Path, session: &str, offset: u64) -> Result<(String, u64)> {
    let path = existing_session(runs, session)?.join("pipeline.log");
    let read = || -> std::io::Result<Vec<u8>> {
        let file = files::open_own(&path)?;
        let mut block = vec![0; file.metadata()?.len().saturating_sub(offset) as usize];
        file.read_exact_at(&mut block, offset)?;
        Ok(block)
    };
    let mut block = match read() {
        Ok(block) => block,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    block.truncate(block.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    let end = offset + block.len() as u64;
    Ok((String::from_utf8_lossy(&block).into_owned(), end))
}

/// Bytes of the session's log.
pub(crate) fn log_bytes(runs: &Path, session: &str) -> u64 {
    fs::metadata(runs.join(session).join("pipeline.log")).map_or(0, |found| found.len())
}

/// The last `count` lines of a file, read in blocks from its end: a log can have many gigabytes.
fn last_lines(path: &Path, count: usize) -> std::io::Result<Vec<u8>> {
    const BLOCK: u64 = 1 << 16;
    let file = files::open_own(path)?;
    let mut start = file.metadata()?.len();
    let mut blocks = Vec::new();
    let mut breaks = 0;
    // One line break more than lines: the one before the first line. The last line may have no break yet.
    while start > 0 && breaks <= count {
        let length = start.min(BLOCK);
        start -= length;
        let mut block = vec![0; length as usize];
        file.read_exact_at(&mut block, start)?;
        breaks += block.iter().filter(|byte| **byte == b'\n').count();
        blocks.push(block);
    }
    let mut text: Vec<u8> = blocks.into_iter().rev().flatten().collect();
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let lines = text.split_inclusive(|byte| *byte == b'\n').count();
    Ok(text.split_inclusive(|byte| *byte == b'\n').skip(lines.saturating_sub(count)).flatten().copied().collect())
}

/// The state of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepState {
    pub step: String,
    pub task: String,
    /// `success`, `failure`, `running` or `interrupted` (by a signal, or its process ended without a summary).
    pub state: String,
    pub started_at: String,
    pub finished_at: Option<String>,
    /// Seconds, so far if it runs. `None` if its process ended without a summary.
    pub duration_s: Option<f64>,
    /// The parameter `model` or `adapter`, as given.
    pub model: Option<String>,
    /// The last loss of a training.
    pub loss: Option<f64>,
    /// Seconds until the end of a running training, as last estimated.
    pub eta_seconds: Option<f64>,
    /// The error in one line.
    pub error: Option<String>,
}

/// The state of a session and its steps.
#[derive(Clone, Debug, Serialize)]
pub struct SessionState {
    pub session: String,
    pub created: String,
    /// The state of the last step.
    pub state: String,
    /// Bytes of all its files.
    pub size_bytes: u64,
    pub steps: Vec<StepState>,
}

/// The state of one session.
pub fn session_state(runs: &Path, session: &str) -> Result<SessionState> {
    let folder = existing_session(runs, session)?;
    let record = read_record(&folder)?.unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let running = lock_owner(&folder).is_some();
    let invocations = record.get("invocations").and_then(Value::as_array).cloned().unwrap_or_default();
    let last = invocations.len().saturating_sub(1);
    let mut steps: Vec<StepState> = Vec::new();
    for (i, one) in invocations.iter().enumerate() {
        let state = match one["status"].as_str() {
            Some(_) if one["error"] == "interrupted" => "interrupted".into(),
            Some(status) => status.to_lowercase(),
            None if running && i == last => "running".into(),
            None => "interrupted".into(),
        };
        let mut step = text(&one["step"]);
        // A failed attempt leaves an earlier success unchanged, so both are shown.
        if ["failure", "interrupted"].contains(&state.as_str()) && succeeded(&folder.join(&step)) {
            step = format!("{step}.failed");
        }
        let step = step_state(&folder, step, state, one);
        steps.retain(|earlier| earlier.step != step.step);
        steps.push(step);
    }
    let state = steps.last().map_or("empty".to_string(), |step| step.state.clone());
    let created = text(record.get("created").unwrap_or(&Value::Null));
    Ok(SessionState { session: session.to_string(), created, state, size_bytes: folder_bytes(&folder), steps })
}

/// The state of the step `step`, which `invocation` of session.json records.
fn step_state(session: &Path, step: String, state: String, invocation: &Value) -> StepState {
    let text = |name: &str| invocation[name].as_str().map(ToString::to_string);
    let running = state == "running";
    // A step that replaces an earlier one works beside it.
    let replacement = session.join(format!("{step}.new"));
    let details = StepDetails::read(&if running && replacement.is_dir() { replacement } else { session.join(&step) });
    let started_at = text("started_at").unwrap_or_default();
    StepState {
        task: text("task").unwrap_or_default(),
        finished_at: text("finished_at"),
        duration_s: if running { seconds_since(&started_at) } else { details.duration_s },
        model: details.model,
        loss: details.loss,
        eta_seconds: details.eta_seconds.filter(|_| running),
        error: match (state.as_str(), invocation["status"].as_str()) {
            ("interrupted", None) => Some("its process ended without a summary (killed, or the machine stopped)".into()),
            ("success" | "running", _) => None,
            _ => details.error,
        },
        started_at,
        step,
        state,
    }
}

/// All sessions, oldest first. Runs directory: the parameter `runs`, otherwise PYRUST_NN_RUNS, otherwise `runs`.
pub fn list_sessions(runs: Option<&Path>) -> Result<Vec<SessionState>> {
    let runs = runs_dir(runs);
    let entries = match fs::read_dir(&runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", runs.display())),
    };
    let mut sessions = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().join("session.json").is_file() && check_name("session", &name).is_ok() {
            // One damaged record must not hide the others.
            sessions.push(session_state(&runs, &name).unwrap_or_else(|_| SessionState {
                session: name,
                created: String::new(),
                state: "damaged".into(),
                size_bytes: 0,
                steps: Vec::new(),
            }));
        }
    }
    sessions.sort_by(|a, b| (&a.created, &a.session).cmp(&(&b.created, &b.session)));
    Ok(sessions)
}

fn succeeded(step: &Path) -> bool {
    matches!(Summary::read(step), Ok(Some(summary)) if summary.status == Status::Success)
}

/// The folder of a session.
///
/// # Errors
/// Kind `usage` if the name is invalid or there is no such session.
pub(crate) fn existing_session(runs: &Path, session: &str) -> Result<std::path::PathBuf> {
    check_name("session", session)?;
    let folder = runs.join(session);
    if folder.is_dir() {
        return Ok(folder);
    }
    let known: Vec<String> = fs::read_dir(runs)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let near = error::did_you_mean(session, known.iter().map(String::as_str)).map(|near| format!("; did you mean {near}?"));
    Err(error::usage(format!(
        "there is no session {session} in {}{}",
        runs.display(),
        near.unwrap_or_else(|| "; `pyrust-nn sessions` lists them, --runs-dir names another folder".into())
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::record::Session;

    #[test]
    fn an_open_step_is_running_or_interrupted_if_its_process_ended() {
        let runs = tempfile::tempdir().unwrap();
        let mut session = Session::open(runs.path(), "s1").unwrap();
        session.begin("merge", "merge", &[]).unwrap();
        assert_eq!(session_state(runs.path(), "s1").unwrap().state, "running");
        drop(session);
        let state = session_state(runs.path(), "s1").unwrap();
        assert_eq!((state.state.as_str(), state.steps[0].state.as_str()), ("interrupted", "interrupted"));
        fs::create_dir(runs.path().join("s2")).unwrap();
        fs::write(runs.path().join("s2/session.json"), "{").unwrap();
        let listed: Vec<_> = list_sessions(Some(runs.path())).unwrap().into_iter().map(|one| (one.session, one.state)).collect();
        assert_eq!(listed, [("s2".into(), "damaged".into()), ("s1".into(), "interrupted".to_string())]);
    }

    #[test]
    fn the_last_lines_of_the_log() {
        let runs = tempfile::tempdir().unwrap();
        fs::create_dir(runs.path().join("demo1")).unwrap();
        assert_eq!(read_log(runs.path(), "demo1", None).unwrap(), "");
        fs::write(runs.path().join("demo1/pipeline.log"), "a\nb\nc\n").unwrap();
        for (count, wanted) in [(None, "a\nb\nc\n"), (Some(2), "b\nc\n"), (Some(0), ""), (Some(9), "a\nb\nc\n")] {
            assert_eq!(read_log(runs.path(), "demo1", count).unwrap(), wanted);
        }
        // Lines longer than a block, and a last line that is still being written.
        let lines: Vec<String> = (0..40).map(|number| format!("{number}-{}", "x".repeat(number * 997 % 70_000))).collect();
        fs::write(runs.path().join("demo1/pipeline.log"), lines.join("\n")).unwrap();
        for count in 0..=41 {
            let wanted: String = lines[40 - count.min(40)..].iter().flat_map(|line| [line, "\n"]).collect();
            assert!(read_log(runs.path(), "demo1", Some(count)).unwrap() == wanted, "{count}");
        }
        let message = read_log(runs.path(), "demo2", None).unwrap_err().to_string();
        assert!(message.contains("did you mean demo1?"), "{message}");
    }
}
