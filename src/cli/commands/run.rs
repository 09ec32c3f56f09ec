//! `run`: a pipeline file, the default command.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Map, Value};

use crate::base::{assets, error, files};
use crate::cli::commands::run_plan::run_plan;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::param_args::{flag, given};
use crate::params::interface::Interface;
use crate::params::param::Param;
use crate::params::validate::resolve;
use crate::pipeline::{FILE, Pipeline};
use crate::tasks::TASKS;

/// Run a pipeline file (the default command)
#[derive(Args, Clone, Debug)]
pub(crate) struct Run {
    /// The pipeline file [default: pipeline.toml]
    #[arg(value_name = "FILE", value_parser = pipeline_file)]
    file: Option<PathBuf>,
    /// Write the sample pipeline.toml and data.json here, and run nothing
    #[arg(long)]
    init: bool,
    /// The session [default: a fresh id]
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

impl Run {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        if self.init {
            return write_sample();
        }
        let file = self.file.unwrap_or_else(|| PathBuf::from(FILE));
        let mut overrides = global.given();
        overrides.extend(self.overrides.0);
        let plan = Pipeline::read(&file)?.with(overrides, self.session, Interface::Cli)?;
        // A wrong parameter in the last step should not cost the steps before it.
        for request in &plan.steps {
            let name = request.step();
            resolve(request.task.name, request.task.all_params(), request.given.clone(), request.interface)
                .map_err(|cause| error::usage(format!("{}, step {name}: {cause}", file.display())))?;
        }
        run_plan(plan, global)
    }
}

/// A word that can be a file of steps. Anything else is most likely a command with a typing error.
pub(crate) fn pipeline_file(word: &str) -> Result<PathBuf, String> {
    if word.ends_with(".toml") || Path::new(word).is_file() {
        return Ok(word.into());
    }
    let own = ["run", "resume", "status", "sessions", "setup", "doctor"].map(String::from);
    let commands: Vec<String> = TASKS.iter().map(|task| task.command()).chain(own).collect();
    let near = error::did_you_mean(word, commands.iter().map(String::as_str)).map(|near| format!("; did you mean the command {near}?"));
    Err(format!("neither a command nor a pipeline file (.toml){}", near.unwrap_or_default()))
}

/// Parameters of a pipeline's top level that are worth a flag: those that nearly every task has, and the data set.
#[derive(Clone, Debug)]
struct Overrides(Map<String, Value>);

fn overriding() -> impl Iterator<Item = &'static Param> {
    let wanted = ["model", "dataset_path", "device", "seed", "overwrite"];
    TASKS[0].all_params().filter(move |param| wanted.contains(&param.name))
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        command.args(overriding().map(|param| flag(param).help(format!("{} (of every step that has it)", param.help.trim()))))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Overrides, clap::Error> {
        Ok(Overrides(given(overriding(), matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Overrides::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The sample pipeline and its conversations, into the working directory.
fn write_sample() -> Result<u8> {
    let names = [FILE, "data.json"];
    if let Some(name) = names.into_iter().find(|name| Path::new(name).exists()) {
        return Err(error::usage(format!("{name} is already here; move it away, or go to an empty folder")));
    }
    for name in names {
        files::write_whole(Path::new(name), assets::text(name).unwrap_or_default().as_bytes())?;
    }
    output::line(&format!("wrote {FILE} and data.json; `pyrust-nn run` runs them"));
    Ok(0)
}
