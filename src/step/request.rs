//! The request to run a step, and its outcome.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::secrets;
use crate::params::interface::Interface;
use crate::params::task::Task;
use crate::session::names::{new_session_id, runs_dir};
use crate::session::summary::Summary;

/// The step to run.
#[derive(Clone, Debug)]
pub struct Request {
    pub task: &'static Task,
    /// `None`: a new id is made.
    pub session: Option<String>,
    /// The given parameters, by name.
    pub given: Map<String, Value>,
    pub interface: Interface,
    /// Resume the unfinished attempt.
    pub resume: bool,
    /// The pipeline of the step, for session.json.
    pub plan: Option<Value>,
}

impl Request {
    /// A new run of a single step.
    pub fn new(task: &'static Task, session: Option<String>, given: Map<String, Value>, interface: Interface) -> Request {
        Request { task, session, given, interface, resume: false, plan: None }
    }

    /// Whether the step is only checked.
    pub fn is_dry(&self) -> bool {
        self.given.get("dry_run") == Some(&Value::Bool(true))
    }

    /// Whether the network must not be used.
    pub(crate) fn is_offline(&self) -> bool {
        self.given.get("offline") == Some(&Value::Bool(true))
    }

    /// Whether a step of this name comes earlier in the same pipeline.
    pub fn follows(&self, name: &str) -> bool {
        self.earlier().any(|(step, _)| step == name)
    }

    /// The earlier steps of the same pipeline: name and task.
    pub(crate) fn earlier(&self) -> impl Iterator<Item = (&str, &str)> {
        let rows = self.plan.as_ref().and_then(|plan| plan["steps"].as_array()).into_iter().flatten();
        let all = rows.map(|row| {
            let task = row["task"].as_str().unwrap_or_default();
            (row["given"]["step"].as_str().unwrap_or(task), task)
        });
        all.take_while(|(step, _)| *step != self.step())
    }

    /// The step's name.
    pub fn step(&self) -> &str {
        self.given.get("step").and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(self.task.name)
    }

    /// The folder of all sessions.
    pub(crate) fn runs(&self) -> PathBuf {
        runs_dir(self.given.get("runs_dir").and_then(Value::as_str).map(Path::new))
    }

    /// The summary of a step that has not started.
    pub(crate) fn new_summary(&self) -> Summary {
        let session = self.session.clone().unwrap_or_else(new_session_id);
        Summary { params: secrets::redacted(&self.given), ..Summary::new(self.task.name, session, self.step()) }
    }
}

/// The summary of a step, and the error if it failed. The summary of a refused step is not on disk, nor if the session could not be opened.
#[derive(Debug)]
pub struct StepOutcome {
    pub summary: Summary,
    pub error: Option<anyhow::Error>,
}

impl StepOutcome {
    /// The summary, or the error.
    pub fn into_result(self) -> Result<Summary> {
        match self.error {
            None => Ok(self.summary),
            Some(error) => Err(error),
        }
    }
}
