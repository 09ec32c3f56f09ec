//! `resume`: continues an interrupted session.

use anyhow::Result;
use clap::Args;

use crate::cli::commands::run_plan::run_plan;
use crate::cli::global::GlobalArgs;
use crate::params::interface::Interface;
use crate::pipeline::remaining;

/// Resume an interrupted session: a fine-tuning from its last checkpoint, then the rest of the pipeline
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// Name of the session
    session: String,
    /// Resume only this step
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
}

impl ResumeArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let plan = remaining(global.runs_dir.as_deref(), &self.session, self.step.as_deref(), Interface::Cli)?;
        run_plan(plan, global)
    }
}
