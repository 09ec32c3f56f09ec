//! `serve`: an HTTP API for models in GGUF, until a signal ends it.

mod detached;
mod serving;
mod stop;

use std::time::Duration;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Subcommand};
use serde_json::{Map, Value, json};

use crate::base::error::Error;
use crate::base::signals;
use crate::base::signals::Handlers;
use crate::cli::commands::serve::detached::{ALONE, leave_terminal, start};
use crate::cli::commands::serve::serving::Serving;
use crate::cli::commands::serve::stop::stop;
use crate::cli::examples::examples;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::param_args::{args, command_params, given, session, usage};
use crate::params::group::Group;
use crate::params::interface::Interface;
use crate::serve::{ABOUT, EXAMPLES, NAME, Server, all_params};
use crate::session::new_session_id;

const STOP: &str = "stop";

/// How often a signal is looked for.
const POLL: Duration = Duration::from_millis(50);

/// The given parameters.
#[derive(Debug, Default)]
pub(crate) struct ServeArgs {
    session: Option<String>,
    given: Map<String, Value>,
    detach: bool,
    /// Set in the process that `--detach` starts.
    alone: bool,
    /// A server is to end.
    stop: Option<StopArgs>,
}

/// The session whose server is to end; `None`: the only one that serves.
#[derive(Debug)]
struct StopArgs {
    session: Option<String>,
}

impl ServeArgs {
    pub(crate) fn run(mut self, global: &GlobalArgs) -> Result<u8> {
        if let Some(args) = &self.stop {
            return stop(args.session.as_deref(), global);
        }
        self.given.extend(global.given());
        let _signals = Handlers::note_signals();
        if self.detach {
            let session = self.session.unwrap_or_else(new_session_id);
            return Ok(match start(&session, &self.given, global)? {
                Err(code) => code,
                Ok(serving) => {
                    announce(&serving, &session, global);
                    if !global.json {
                        output::command("stop: ", &format!("pyrust-nn serve stop {session}"));
                    }
                    0
                }
            });
        }
        let server = Server::start(self.session, self.given, Interface::Cli)?;
        let (url, step) = (server.url().to_string(), server.step().to_string());
        announce(&Serving { url, step, pid: std::process::id(), models: server.models() }, server.session(), global);
        if self.alone {
            leave_terminal()?;
        }
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
fn announce(serving: &Serving, session: &str, global: &GlobalArgs) {
    if global.json {
        output::json(&json!({"url": serving.url, "session": session, "step": serving.step, "models": serving.models}));
    } else {
        output::line(&format!("{}/v1", serving.url));
        for model in &serving.models {
            let text = |name: &str| model[name].as_str().unwrap_or_default().to_string();
            let of = if model["parent"].is_null() { String::new() } else { format!("  adapter on {}", text("parent")) };
            output::line(&format!("  {}{of}", text("id")));
        }
    }
}

impl Subcommand for ServeArgs {
    fn augment_subcommands(command: Command) -> Command {
        let described = Command::new(NAME).about(ABOUT).override_usage(usage(NAME, all_params())).after_help(examples(&EXAMPLES));
        let detach = Arg::new("detach").long("detach").action(ArgAction::SetTrue).help_heading(Group::Server.heading());
        let detach = detach.help("End this command when the server is ready; it goes on until `pyrust-nn serve stop SESSION`");
        let alone = Arg::new(ALONE).long(ALONE).action(ArgAction::SetTrue).hide(true).conflicts_with("detach");
        let stopped = Arg::new("session").value_name("SESSION").help("Session of the server [default: the only one that serves]");
        let stop = Command::new(STOP).about("End the server of a session; its answers in flight end first").arg(stopped);
        let own = described.args(args(all_params())).args([session(), detach, alone]).subcommand(stop);
        command.subcommand(own.disable_help_subcommand(true).subcommand_negates_reqs(true).args_conflicts_with_subcommands(true))
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
        if let Some((STOP, stop)) = own.subcommand() {
            return Ok(ServeArgs { stop: Some(StopArgs { session: stop.get_one::<String>("session").cloned() }), ..ServeArgs::default() });
        }
        Ok(ServeArgs {
            session: own.get_one::<String>("session").cloned(),
            given: given(command_params(all_params()), own),
            detach: own.get_flag("detach"),
            alone: own.get_flag(ALONE),
            stop: None,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = ServeArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
