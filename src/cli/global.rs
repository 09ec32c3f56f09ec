//! The options that every command accepts, before or after its name.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde_json::{Map, Value};

use crate::params::group::Group;

const GLOBAL_HEADING: &str = Group::Global.heading();

/// Options of every command. The last in its help.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct GlobalArgs {
    /// Folder of all sessions [default: PYRUST_NN_RUNS, otherwise runs]
    #[arg(long, value_name = "PATH", global = true, help_heading = GLOBAL_HEADING)]
    pub runs_dir: Option<PathBuf>,
    /// Python environment to use [default: VIRTUAL_ENV, ./.venv, the checkout's .venv]
    #[arg(long, value_name = "PATH", global = true, help_heading = GLOBAL_HEADING)]
    pub python_env: Option<PathBuf>,
    /// Do not install anything: fail if the Python environment is missing
    #[arg(long, global = true, help_heading = GLOBAL_HEADING)]
    pub no_setup: bool,
    /// Do not use the network
    #[arg(long, global = true, help_heading = GLOBAL_HEADING)]
    pub offline: bool,
    /// Print the result as one JSON document on stdout
    #[arg(long, global = true, help_heading = GLOBAL_HEADING)]
    pub json: bool,
    /// Show only warnings, errors and the result
    #[arg(short, long, global = true, help_heading = GLOBAL_HEADING)]
    pub quiet: bool,
    /// Show debug lines
    #[arg(short, long, global = true, help_heading = GLOBAL_HEADING)]
    pub verbose: bool,
    /// Print help
    #[arg(short, long, global = true, help_heading = GLOBAL_HEADING, action = ArgAction::Help)]
    help: Option<bool>,
}

impl GlobalArgs {
    /// The options that are parameters of a step.
    pub(crate) fn given(&self) -> Map<String, Value> {
        let mut given = Map::new();
        if let Some(runs) = &self.runs_dir {
            given.insert("runs_dir".into(), runs.to_string_lossy().into());
        }
        if self.offline {
            given.insert("offline".into(), true.into());
        }
        given
    }
}
