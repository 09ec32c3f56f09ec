//! `serve`: an HTTP API for models in GGUF, until a signal ends it.

use std::time::Duration;

use anyhow::Result;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use serde_json::{Map, Value, json};

use crate::base::error::Error;
use crate::base::signals;
use crate::base::signals::Handlers;
use crate::cli::examples::examples;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::param_args::{args, command_params, given, session, usage};
use crate::params::interface::Interface;
use crate::serve::{ABOUT, EXAMPLES, NAME, Server, all_params};

/// How often a signal is looked for.
const POLL: Duration = Duration::from_millis(50);

/// The given parameters.
#[derive(Debug)]
pub(crate) struct ServeArgs {
    session: Option<String>,
    given: Map<String, Value>,
}

impl ServeArgs {
    pub(crate) fn run(mut self, global: &GlobalArgs) -> Result<u8> {
        self.given.extend(global.given());
        let _signals = Handlers::note_signals();
        let server = Server::start(self.session, self.given, Interface::Cli)?;
        announce(&server, global);
        let mut heard = false;
        while !server.wait(POLL) {
            let Err(cause) = signals::check() else { continue };
            if heard {
                server.end(Some(Error::of(&cause)))?;
                return Err(cause);
            }
            heard = true;
            server.drain();
        }
        server.ended()?;
        Ok(0)
    }
}

/// Says where what is served.
fn announce(server: &Server, global: &GlobalArgs) {
    let (url, models) = (server.url(), server.models());
    if global.json {
        output::json(&json!({"url": url, "session": server.session(), "step": server.step(), "models": models}));
    } else {
        output::line(&format!("{url}/v1"));
        for model in models {
            let text = |name: &str| model[name].as_str().unwrap_or_default().to_string();
            let of = if model["parent"].is_null() { String::new() } else { format!("  adapter on {}", text("parent")) };
            output::line(&format!("  {}{of}", text("id")));
        }
    }
}

impl Subcommand for ServeArgs {
    fn augment_subcommands(command: Command) -> Command {
        let described = Command::new(NAME).about(ABOUT).override_usage(usage(NAME, all_params())).after_help(examples(&EXAMPLES));
        command.subcommand(described.args(args(all_params())).arg(session()))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == NAME
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ServeArgs, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (_, own) = matches.subcommand().filter(|(name, _)| *name == NAME).ok_or_else(missing)?;
        Ok(ServeArgs { session: own.get_one::<String>("session").cloned(), given: given(command_params(all_params()), own) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = ServeArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
