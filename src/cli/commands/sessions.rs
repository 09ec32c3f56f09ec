//! `sessions`: lists all sessions, oldest first.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::base::clock::seconds_since;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::table::table;
use crate::cli::text::{bytes, duration, significant, tail};
use crate::session::{SessionState, list_sessions, runs_dir};

/// Columns of a model's name.
const MODEL_COLUMNS: usize = 28;

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
            let mut rows = vec![["session", "state", "model", "task", "loss", "size", "age"].map(String::from)];
            rows.extend(sessions.into_iter().map(row));
            table(&rows, Some(2));
        }
        Ok(0)
    }
}

/// The model is that of the first step, the task that of the last, the loss that of the last training.
fn row(session: SessionState) -> [String; 7] {
    let model = session.steps.iter().find_map(|step| step.model.as_deref()).unwrap_or("-");
    let loss = session.steps.iter().rev().find_map(|step| step.loss);
    [
        session.session,
        session.state,
        tail(model, MODEL_COLUMNS),
        session.steps.last().map_or_else(|| "-".into(), |step| step.task.clone()),
        loss.map_or_else(|| "-".into(), significant),
        bytes(session.size_bytes),
        seconds_since(&session.created).map_or_else(|| "-".into(), duration),
    ]
}
