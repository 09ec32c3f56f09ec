//! `resume`: continues an interrupted session.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use crate::base::error;
use crate::cli::commands::run_plan::run_plan;
use crate::cli::global::GlobalArgs;
use crate::params::interface::Interface;
use crate::pipeline::remaining;
use crate::session::{list_sessions, runs_dir};

/// Resume an interrupted session: a fine-tuning from its last checkpoint, then the rest of the pipeline
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// Name of the session [required]
    #[arg(value_name = "SESSION")]
    session: Option<String>,
    /// Resume only this step
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Secret that a remaining step needs, such as api_key=...; may be repeated [default: PYRUST_NN_SECRET_NAME]
    #[arg(long = "secret", value_name = "NAME=VALUE", value_parser = name_and_value)]
    secrets: Vec<(String, Value)>,
    /// Another number of processes than the training had
    #[arg(long, value_name = "N")]
    nproc_per_node: Option<String>,
    /// Another number of restarts
    #[arg(long, value_name = "N")]
    max_restarts: Option<u32>,
}

impl ResumeArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let session = self.session.map_or_else(|| Err(without_session(global)), Ok)?;
        let secrets = self.secrets.into_iter().collect();
        let number = |text: String| text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from);
        let mut processes = Map::new();
        processes.insert("nproc_per_node".into(), self.nproc_per_node.map_or(Value::Null, number));
        processes.insert("max_restarts".into(), self.max_restarts.into());
        let plan = remaining(global.runs_dir.as_deref(), &session, self.step.as_deref(), &secrets, &processes, Interface::Cli)?;
        run_plan(plan, global)
    }
}

/// The error without a session, which names those that were interrupted.
fn without_session(global: &GlobalArgs) -> anyhow::Error {
    let runs = runs_dir(global.runs_dir.as_deref());
    let all = list_sessions(Some(&runs)).unwrap_or_default();
    let interrupted: Vec<String> = all.into_iter().filter(|one| one.state == "interrupted").map(|one| one.session).collect();
    let fix = match interrupted.split_last() {
        None => format!("none in {} is interrupted", runs.display()),
        Some((last, _)) => format!("interrupted: {}. For example: pyrust-nn resume {last}", interrupted.join(", ")),
    };
    error::usage(format!("resume needs the name of a session; {fix}"))
}

pub(super) fn name_and_value(word: &str) -> Result<(String, Value), String> {
    let (name, value) = word.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_string(), value.into()))
}
