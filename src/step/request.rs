//! What to run, and what came of it.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::params::interface::Interface;
use crate::params::task::Task;
use crate::session::summary::Summary;

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    pub task: &'static Task,
    /// None: a fresh id.
    pub session: Option<String>,
    /// The subject and the parameters that were given, by name.
    pub given: Map<String, Value>,
    pub interface: Interface,
    /// Go on with the attempt that stands there.
    pub resume: bool,
    /// The pipeline that the step is part of, for session.json.
    pub plan: Option<Value>,
}

impl Request {
    /// A step by itself, from its beginning.
    pub fn new(task: &'static Task, session: Option<String>, given: Map<String, Value>, interface: Interface) -> Request {
        Request { task, session, given, interface, resume: false, plan: None }
    }

    /// The step's name.
    pub fn step(&self) -> &str {
        self.given.get("step").and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(self.task.name)
    }
}

/// What came of it: the summary, and the error where it failed. A failure before there was a session has a summary too, unwritten.
#[derive(Debug)]
pub struct Outcome {
    pub summary: Summary,
    pub error: Option<anyhow::Error>,
}

impl Outcome {
    /// The summary, or the error.
    pub fn into_result(self) -> Result<Summary> {
        match self.error {
            None => Ok(self.summary),
            Some(error) => Err(error),
        }
    }
}
