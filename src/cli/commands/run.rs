//! `run`, the default command: runs a pipeline file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Map, Value};

use crate::base::{assets, error, files};
use crate::cli::commands::dry_run::show_plan;
use crate::cli::commands::run_plan::run_plan;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::param_args::{command_params, flags, given};
use crate::params::group::Group;
use crate::params::interface::Interface;
use crate::params::param::Param;
use crate::pipeline::{FILE, open};
use crate::step::Request;
use crate::tasks::TASKS;

/// Run a pipeline file (the default command)
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Pipeline file (TOML) [default: pipeline.toml]
    #[arg(value_name = "FILE", value_parser = pipeline_file)]
    file: Option<PathBuf>,
    /// Write a sample pipeline.toml and data.json to the working directory and exit
    #[arg(long)]
    init: bool,
    /// Name of the session [default: a new id]
    #[arg(long, value_name = "ID", help_heading = Group::Session.heading())]
    pub session: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

impl RunArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        if self.init {
            return write_sample(false);
        }
        let file = self.file.unwrap_or_else(|| PathBuf::from(FILE));
        let mut overrides = global.given();
        overrides.extend(self.overrides.0);
        let plan = open(&file, overrides, self.session, Interface::Cli)?;
        if plan.steps.iter().all(Request::is_dry) { show_plan(plan, global) } else { run_plan(plan, global) }
    }
}

/// Accepts a word that can be a pipeline file: a path. Any other word is most likely a misspelled command.
pub(crate) fn pipeline_file(word: &str) -> Result<PathBuf, String> {
    if word.contains(['.', '/']) || Path::new(word).is_file() { Ok(word.into()) } else { Err("it is not a pipeline file (.toml)".into()) }
}

/// Values that replace those of the file.
#[derive(Clone, Debug)]
struct Overrides(Map<String, Value>);

/// Parameters that belong to one step of a file.
pub(crate) const OF_ONE_STEP: [&str; 5] = ["step", "prompt", "script", "params", "adapter"];

/// The parameters of all tasks that have a flag.
fn override_params() -> impl Iterator<Item = &'static Param> {
    let mut seen = Vec::from(OF_ONE_STEP);
    command_params(TASKS.iter().flat_map(|task| task.all_params())).filter(move |param| {
        let new = !seen.contains(&param.name);
        seen.push(param.name);
        new
    })
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        command.args(flags(override_params(), true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Overrides, clap::Error> {
        Ok(Overrides(given(override_params(), matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Overrides::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Writes the sample pipeline and its conversations to the working directory.
pub(crate) fn write_sample(overwrite: bool) -> Result<u8> {
    let names = [FILE, "data.json"];
    if let Some(name) = names.into_iter().find(|name| !overwrite && Path::new(name).exists()) {
        return Err(error::usage(format!("{name} already exists; move it away, or change to an empty folder")));
    }
    for name in names {
        files::write_whole(Path::new(name), assets::text(name).unwrap_or_default().as_bytes())?;
    }
    output::line(&format!("wrote {FILE} and data.json; run them with `pyrust-nn run`"));
    Ok(0)
}
