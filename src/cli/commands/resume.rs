//! `resume`: what an interruption left to do.

use anyhow::Result;
use clap::Args;

use crate::cli::commands::run_plan::run_plan;
use crate::cli::global::GlobalArgs;
use crate::params::interface::Interface;
use crate::pipeline::remaining;

/// Resume what was interrupted: a fine-tuning from its last checkpoint, then the rest of its pipeline
#[derive(Args, Debug)]
pub(crate) struct Resume {
    /// The session
    session: String,
    /// That step alone
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
}

impl Resume {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let plan = remaining(global.runs_dir.as_deref(), &self.session, self.step.as_deref(), Interface::Cli)?;
        run_plan(plan, global)
    }
}
