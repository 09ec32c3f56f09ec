//! `board`: all sessions in the browser, until a signal ends it.

use std::time::Duration;

use anyhow::Result;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use serde_json::{Map, Value, json};

use crate::base::signals;
use crate::base::signals::Handlers;
use crate::board::{ABOUT, Board, BoardParams, EXAMPLES, NAME};
use crate::cli::examples::examples;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::param_args::{args, command_params, given, usage};
use crate::params::interface::Interface;
use crate::params::param::TaskParams;

/// How often a signal is looked for.
const POLL: Duration = Duration::from_millis(100);

/// The given parameters.
#[derive(Debug)]
pub(crate) struct BoardArgs {
    given: Map<String, Value>,
}

impl BoardArgs {
    pub(crate) fn run(mut self, global: &GlobalArgs) -> Result<u8> {
        self.given.extend(global.given());
        self.given.remove("offline"); // it asks no other machine anyway
        let _signals = Handlers::note_signals();
        let board = Board::start(self.given, Interface::Cli, None)?;
        if global.json {
            output::json(&json!({"url": board.url()}));
        } else {
            output::verbatim(board.url());
            output::line("Open this address in a browser. Ctrl-C ends the board; sessions go on.");
        }
        while signals::check().is_ok() {
            std::thread::sleep(POLL);
        }
        board.close();
        Ok(0)
    }
}

impl Subcommand for BoardArgs {
    fn augment_subcommands(command: Command) -> Command {
        let params = || BoardParams::params().iter();
        let described = Command::new(NAME).about(ABOUT).override_usage(usage(NAME, params())).after_help(examples(&EXAMPLES));
        command.subcommand(described.args(args(params())))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == NAME
    }
}

impl FromArgMatches for BoardArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<BoardArgs, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (_, own) = matches.subcommand().filter(|(name, _)| *name == NAME).ok_or_else(missing)?;
        Ok(BoardArgs { given: given(command_params(BoardParams::params().iter()), own) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = BoardArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
