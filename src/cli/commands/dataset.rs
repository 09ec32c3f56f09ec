//! `prepare` and `check`: dataset commands, which need no session.

use anyhow::Result;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use serde_json::{Map, Value};

use crate::base::error;
use crate::base::signals::Handlers;
use crate::cli::commands::check;
use crate::cli::examples::examples;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::param_args::{args, command_params, given, usage};
use crate::params::command::DatasetCommand;
use crate::params::interface::Interface;
use crate::tasks::DATASET_COMMANDS;

/// A dataset command and the given parameters.
#[derive(Debug)]
pub(crate) struct DatasetArgs {
    command: &'static DatasetCommand,
    given: Map<String, Value>,
}

impl DatasetArgs {
    /// The parameters as the command would use them.
    #[cfg(test)]
    pub(crate) fn resolve(mut self, global: &GlobalArgs) -> Result<Map<String, Value>> {
        self.given.extend(global.given());
        crate::params::validate::resolve(self.command.name, self.command.all_params(), self.given, Interface::Cli)
    }

    pub(crate) fn run(mut self, global: &GlobalArgs) -> Result<u8> {
        self.given.extend(global.given());
        let _signals = Handlers::note_signals();
        let result = (self.command.run)(self.given, Interface::Cli, &mut |_, _| Ok(()))?;
        // A report with problems has the same exit code as any other invalid input.
        let code = if result["ok"] == Value::Bool(false) { error::Kind::Input.exit_code() } else { 0 };
        if global.json {
            output::json(&result);
        } else if self.command.returns == "CheckReport" {
            check::report(&serde_json::from_value(result)?, global.verbose);
        } else {
            output::names_and_values(&result);
        }
        Ok(code)
    }
}

impl Subcommand for DatasetArgs {
    fn augment_subcommands(command: Command) -> Command {
        command.subcommands(DATASET_COMMANDS.iter().map(|one| dataset_command(one)))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        DATASET_COMMANDS.iter().any(|one| one.name == name)
    }
}

impl FromArgMatches for DatasetArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<DatasetArgs, clap::Error> {
        let found = matches.subcommand().and_then(|(name, own)| Some((DATASET_COMMANDS.iter().find(|one| one.name == name)?, own)));
        let (command, matches) = found.ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;
        Ok(DatasetArgs { command, given: given(command_params(command.all_params()), matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = DatasetArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

fn dataset_command(command: &'static DatasetCommand) -> Command {
    let described = Command::new(command.name).about(command.about).override_usage(usage(command.name, command.all_params()));
    described.after_help(examples(&command.examples)).args(args(command.all_params()))
}
