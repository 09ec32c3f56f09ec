//! `chat`: a conversation with a model in the terminal. It is no step: it has no session, and other steps may run beside it.

mod chat_loop;
mod chat_params;
mod line_editor;
mod side_by_side;
mod slash_command;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Subcommand, ValueHint};
use serde_json::{Map, Value};

use crate::base::signals::Handlers;
use crate::cli::commands::chat::chat_loop::Chat;
use crate::cli::commands::chat::chat_params::params;
use crate::cli::examples::examples;
use crate::cli::global::GlobalArgs;
use crate::cli::param_args::{args, command_params, given, usage};
use crate::params::group::Group;
use crate::params::interface::Interface;
use crate::params::param::MODEL;
use crate::params::task::Examples;
use crate::params::validate::resolve;
use crate::session::runs_dir;

const NAME: &str = "chat";
const EXAMPLES: Examples = [
    ("Talk to a GGUF file of a step:", "pyrust-nn chat -m s1/convert_model_to_gguf:q8_0"),
    ("Ask a model before and after its training:", "pyrust-nn chat --compare Qwen/Qwen3-0.6B s1/finetune_lora"),
];
/// The given parameters.
#[derive(Debug)]
pub(crate) struct ChatArgs {
    given: Map<String, Value>,
    system: Option<String>,
    compared: Vec<String>,
}

impl ChatArgs {
    pub(crate) fn run(mut self, global: &GlobalArgs) -> Result<u8> {
        self.given.extend(global.given());
        if !self.given.contains_key(MODEL.name) && !self.compared.is_empty() {
            self.given.insert(MODEL.name.into(), self.compared.remove(0).into());
        }
        let params = resolve(NAME, params(), self.given, Interface::Cli)?;
        let _signals = Handlers::note_signals();
        Chat::open(params, &self.compared, runs_dir(global.runs_dir.as_deref()), self.system)?.run()
    }
}

impl Subcommand for ChatArgs {
    fn augment_subcommands(command: Command) -> Command {
        let about = "Talk to a model in the terminal: a GGUF file, a model, an adapter or a session's step";
        let system = Arg::new("system").long("system").value_name("TEXT").help("System prompt of the conversation");
        let system = system.help_heading(Group::Generation.heading());
        let described = Command::new(NAME).about(about).override_usage(usage(NAME, params())).after_help(examples(&EXAMPLES));
        let compare = Arg::new("compare").long("compare").value_name("MODEL").num_args(1..).action(ArgAction::Append);
        let compare = compare.value_hint(ValueHint::AnyPath).help_heading(Group::Model.heading());
        let compare =
            compare.help("Further models that answer the same questions, side by side or, in a narrow terminal, one after the other. Without MODEL the first of them is it");
        command.subcommand(described.args(args(params())).arg(system).arg(compare))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == NAME
    }
}

impl FromArgMatches for ChatArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ChatArgs, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (_, own) = matches.subcommand().filter(|(name, _)| *name == NAME).ok_or_else(missing)?;
        Ok(ChatArgs {
            given: given(command_params(params()), own),
            system: own.get_one::<String>("system").cloned(),
            compared: own.get_many::<String>("compare").into_iter().flatten().cloned().collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = ChatArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
