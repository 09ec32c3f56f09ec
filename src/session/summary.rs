//! The summary of a step: `summary.json`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::clock::now;
use crate::base::error::{Error, Kind};
use crate::base::files;
use crate::session::names::{check_name, runs_dir};

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Success,
    Failure,
}

/// The record of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub task: String,
    /// Empty for a dry run for which no session was named, because the run will have a new one.
    pub session: String,
    pub step: String,
    pub status: Status,
    /// All parameters, resolved.
    pub params: Map<String, Value>,
    /// `model`, `adapter`, `gguf` (a list), `answers`: paths relative to the session's folder.
    pub outputs: Map<String, Value>,
    pub metrics: Map<String, Value>,
    /// Further results of the script, such as the answers of an inference, or null.
    #[serde(default)]
    pub result: Value,
    /// How far each file equals its source model: a list, as in `proof.json`. Null for tasks that make no model, except `verify`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub proof: Value,
    pub error: Option<Error>,
    /// The run of the session's pipeline that the step belongs to, so that a clock that is set back hides no success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_run: Option<String>,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub finished_at: String,
    pub duration_s: f64,
}

impl Summary {
    /// A new summary with the current time, for a program's own steps: fill in the rest and call [`write_summary`].
    pub fn new(task: impl Into<String>, session: impl Into<String>, step: impl Into<String>) -> Summary {
        let now = now();
        Summary {
            task: task.into(),
            session: session.into(),
            step: step.into(),
            status: Status::Success,
            params: Map::new(),
            outputs: Map::new(),
            metrics: Map::new(),
            result: Value::Null,
            proof: Value::Null,
            error: None,
            pipeline_run: None,
            started_at: now.clone(),
            finished_at: now,
            duration_s: 0.0,
        }
    }

    /// The step's state: `success`, `failure` or `interrupted`. A summary has the status `Failure` after an interruption too.
    pub fn state(&self) -> &'static str {
        match (self.status, &self.error) {
            (Status::Success, _) => "success",
            (Status::Failure, Some(error)) if error.kind == Kind::Interrupted => "interrupted",
            (Status::Failure, _) => "failure",
        }
    }

    /// Reads `<folder>/summary.json`. `None` if it does not exist.
    pub fn read(folder: &Path) -> Result<Option<Summary>> {
        let path = folder.join("summary.json");
        let bytes = match files::read_own(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let summary =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is not a valid summary; remove it to continue", path.display()))?;
        Ok(Some(summary))
    }
}

/// Writes a summary into its step's folder and returns its path. Runs directory: PYRUST_NN_RUNS, otherwise `runs`.
pub fn write_summary(summary: &Summary) -> Result<PathBuf> {
    check_name("session", &summary.session)?;
    check_name("step", &summary.step)?;
    let folder = runs_dir(None).join(&summary.session).join(&summary.step);
    files::create_folders(&folder)?;
    let path = folder.join("summary.json");
    files::write_json(&path, summary)?;
    Ok(path)
}
