//! `sessions`: lists all sessions, oldest first.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::session::{list_sessions, runs_dir};

/// List the sessions
#[derive(Args, Debug)]
pub(crate) struct SessionsArgs {}

impl SessionsArgs {
    pub(crate) fn run(global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let sessions = list_sessions(Some(&runs))?;
        if global.json {
            output::json(&json!(sessions));
        } else if sessions.is_empty() {
            output::line(&format!("no sessions in {}", runs.display()));
        } else {
            let mut rows = vec![["session", "state", "created", "steps"].map(String::from)];
            rows.extend(sessions.into_iter().map(|one| {
                let steps: Vec<String> = one.steps.into_iter().map(|step| step.step).collect();
                [one.session, one.state, one.created, steps.join(", ")]
            }));
            output::table(&rows);
        }
        Ok(0)
    }
}
