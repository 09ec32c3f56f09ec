//! The state of sessions and steps.
//!
//! It is read from files only, by Rust, without the lock. So it answers while a step runs: importing torch and saving a model hold Python's
//! interpreter lock for up to a second.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::clock::seconds_since;
use crate::session::details::{StepDetails, folder_bytes, working_folder};
use crate::session::existing_session::existing_session;
use crate::session::lock::lock_owner;
use crate::session::record::{attempt_state, read_record, state_of};
use crate::session::summary::{Status, Summary};

/// The state of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionState {
    pub session: String,
    pub created: String,
    /// That of the step that most needs attention, each by its last attempt: `running`, `failure`, `interrupted`, `success`; `empty` without steps.
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
    let mut attempts: Vec<(&str, String)> = Vec::new();
    for (i, one) in invocations.iter().enumerate() {
        let is_running = running && i == last && one["status"].is_null();
        let state = if is_running { "running".into() } else { attempt_state(one) };
        attempts.push((one["step"].as_str().unwrap_or_default(), state.clone()));
        let mut step = text(&one["step"]);
        // A failed attempt leaves an earlier success unchanged, so both are shown; one that was resumed has become the success.
        if ["failure", "interrupted"].contains(&state.as_str()) && succeeded(&folder.join(&step)) {
            let attempt = format!("{step}.failed");
            let later = || invocations[i + 1..].iter().any(|later| later["step"] == step.as_str() && later["status"] == "Success");
            if folder.join(&attempt).is_dir() || !later() {
                step = attempt;
            }
        }
        let step = step_state(&folder, step, state, one);
        steps.retain(|earlier| earlier.step != step.step);
        steps.push(step);
    }
    let state = state_of(&attempts);
    let created = text(record.get("created").unwrap_or(&Value::Null));
    Ok(SessionState { session: session.to_string(), created, state, size_bytes: folder_bytes(&folder), steps })
}

/// The state of the step `step`, which `invocation` of session.json records.
fn step_state(session: &Path, step: String, state: String, invocation: &Value) -> StepState {
    let text = |name: &str| invocation[name].as_str().map(ToString::to_string);
    let running = state == "running";
    let details = StepDetails::read(&working_folder(session, &step, running));
    let started_at = text("started_at").unwrap_or_default();
    StepState {
        task: text("task").unwrap_or_default(),
        finished_at: text("finished_at"),
        duration_s: if running { seconds_since(&started_at) } else { details.duration_s },
        model: details.model,
        loss: details.loss,
        eta_seconds: details.eta_seconds.filter(|_| running),
        error: match (state.as_str(), invocation["status"].as_str()) {
            ("interrupted", None) => Some(format!(
                "its process ended without a summary (killed, or the machine stopped); `pyrust-nn resume {}` goes on",
                session.file_name().unwrap_or_default().display()
            )),
            ("success" | "running", _) => None,
            _ => details.error,
        },
        started_at,
        step,
        state,
    }
}

fn succeeded(step: &Path) -> bool {
    matches!(Summary::read(step), Ok(Some(summary)) if summary.status == Status::Success)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::base::error;
    use crate::base::error::Kind;
    use crate::session::record::Session;

    #[test]
    fn an_open_step_is_running_or_interrupted_if_its_process_ended() {
        let runs = tempfile::tempdir().unwrap();
        let mut session = Session::open(runs.path(), "s1").unwrap();
        session.begin("merge", "merge", "2026-01-01T00:00:00.000Z", &[]).unwrap();
        assert_eq!(session_state(runs.path(), "s1").unwrap().state, "running");
        drop(session);
        let state = session_state(runs.path(), "s1").unwrap();
        assert_eq!((state.state.as_str(), state.steps[0].state.as_str()), ("interrupted", "interrupted"));
    }

    #[test]
    fn a_step_has_ended_when_its_summary_is_there_though_its_process_was_killed_before_it_recorded_that() {
        let runs = tempfile::tempdir().unwrap();
        let folder = runs.path().join("s1/merge");
        let write = |summary: &Summary| fs::write(folder.join("summary.json"), serde_json::to_vec(summary).unwrap()).unwrap();
        let state = || session_state(runs.path(), "s1").unwrap();
        let summary = Summary::new("merge", "s1", "merge");
        let mut session = Session::open(runs.path(), "s1").unwrap();
        session.begin("merge", "merge", &summary.started_at, &[]).unwrap();
        drop(session);
        fs::create_dir_all(&folder).unwrap();
        write(&Summary { started_at: "2025-12-31T00:00:00.000Z".into(), ..summary.clone() });
        assert_eq!(state().steps.last().unwrap().state, "interrupted", "the summary is of an earlier attempt");
        write(&summary);
        assert_eq!((state().state.as_str(), state().steps.len()), ("success", 1));
        assert_eq!(state().steps[0].finished_at.as_deref(), Some(summary.finished_at.as_str()));
        let failed = error::Error::new(Kind::Interrupted, "interrupted by Ctrl-C");
        write(&Summary { status: Status::Failure, error: Some(failed), ..summary });
        assert_eq!(state().state, "interrupted");
        // The next command that opens the session keeps it.
        drop(Session::open(runs.path(), "s1").unwrap().begin("merge", "other", "2026-01-01T00:00:00.000Z", &[]));
        let kept: Value = serde_json::from_slice(&fs::read(runs.path().join("s1/session.json")).unwrap()).unwrap();
        assert_eq!(kept["invocations"][0]["error"], "interrupted");
    }

    #[test]
    fn an_attempt_that_was_resumed_is_the_step_that_succeeded() {
        let runs = tempfile::tempdir().unwrap();
        let attempt = |kind: Option<Kind>| {
            let mut session = Session::open(runs.path(), "s1").unwrap();
            session.begin("merge", "merge", "2026-01-01T00:00:00.000Z", &[]).unwrap();
            let status = if kind.is_some() { Status::Failure } else { Status::Success };
            session.end(status, kind).unwrap();
            if kind.is_none() {
                let folder = runs.path().join("s1/merge");
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("summary.json"), serde_json::to_vec(&Summary::new("merge", "s1", "merge")).unwrap()).unwrap();
            }
        };
        let steps = || {
            let state = session_state(runs.path(), "s1").unwrap();
            state.steps.into_iter().map(|step| format!("{} {}", step.step, step.state)).collect::<Vec<_>>()
        };
        attempt(Some(Kind::Interrupted));
        assert_eq!(steps(), ["merge interrupted"]);
        attempt(None);
        assert_eq!(steps(), ["merge success"]);
        // A later attempt that failed stays beside it, whether it got as far as a folder or not.
        attempt(Some(Kind::Model));
        assert_eq!(steps(), ["merge success", "merge.failed failure"]);
        fs::create_dir(runs.path().join("s1/merge.failed")).unwrap();
        attempt(None);
        assert_eq!(steps(), ["merge.failed failure", "merge success"]);
        assert_eq!(session_state(runs.path(), "s1").unwrap().state, "success", "the attempt that failed was made again");
    }

    #[test]
    fn a_session_is_in_the_state_of_the_step_that_most_needs_attention() {
        let runs = tempfile::tempdir().unwrap();
        let attempt = |step: &str, kind: Option<Kind>| {
            let mut session = Session::open(runs.path(), "s1").unwrap();
            session.begin("merge", step, "2026-01-01T00:00:00.000Z", &[]).unwrap();
            session.end(if kind.is_some() { Status::Failure } else { Status::Success }, kind).unwrap();
            drop(session);
            let record: Value = serde_json::from_slice(&fs::read(runs.path().join("s1/session.json")).unwrap()).unwrap();
            let state = session_state(runs.path(), "s1").unwrap().state;
            assert_eq!(record["state"], state, "session.json says the same");
            state
        };
        assert_eq!(attempt("tune", None), "success");
        assert_eq!(attempt("merge", Some(Kind::Model)), "failure");
        assert_eq!(attempt("ask", None), "failure", "a later step mends nothing");
        assert_eq!(attempt("ask", Some(Kind::Interrupted)), "failure");
        assert_eq!(attempt("merge", None), "interrupted");
        assert_eq!(attempt("ask", None), "success");
    }
}
