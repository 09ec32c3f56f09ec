//! The options that every command takes, before its name or after it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct GlobalArgs {
    /// Folder of all sessions [default: PYRUST_NN_RUNS, else runs]
    #[arg(long, value_name = "PATH", global = true)]
    pub runs_dir: Option<PathBuf>,
    /// The Python environment to use [default: VIRTUAL_ENV, ./.venv, the checkout's .venv]
    #[arg(long, value_name = "PATH", global = true)]
    pub python_env: Option<PathBuf>,
    /// Install nothing: fail where the Python environment is missing
    #[arg(long, global = true)]
    pub no_setup: bool,
    /// Open no socket
    #[arg(long, global = true)]
    pub offline: bool,
    /// Print one JSON document on stdout and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Show only warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show debug lines
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

impl GlobalArgs {
    /// Those that are parameters of a step.
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
