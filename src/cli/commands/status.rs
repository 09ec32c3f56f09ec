//! `status`: shows the state of each step and the end of the log.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::session::{read_log, runs_dir, session_state};

/// Show the state of each step and the last lines of the log
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Name of the session
    session: String,
    /// Number of log lines to show
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
}

impl StatusArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let (state, log) = (session_state(&runs, &self.session)?, read_log(&runs, &self.session, Some(self.lines))?);
        if global.json {
            output::json(
                &json!({"session": state.session, "created": state.created, "state": state.state, "steps": state.steps, "log": log}),
            );
            return Ok(0);
        }
        let mut rows = vec![["step", "task", "state", "started"].map(String::from)];
        rows.extend(state.steps.into_iter().map(|step| [step.step, step.task, step.state, step.started_at]));
        output::table(&rows);
        output::text(&format!("\n{log}"));
        Ok(0)
    }
}
