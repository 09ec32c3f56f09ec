//! Calls a task from Rust.

use anyhow::Result;

use crate::params::interface::Interface;
use crate::params::param::TaskParams;
use crate::params::task::Task;
use crate::session::Summary;
use crate::step::{Request, run_step};

/// Runs a task as one step of a session.
pub(crate) fn run_task<P: TaskParams>(task: &'static Task, session: &str, input: &str, params: &P) -> Result<Summary> {
    let mut given = params.given()?;
    given.insert(task.input.name.into(), input.into());
    run_step(Request::new(task, Some(session.to_string()), given, Interface::Rust)).into_result()
}
