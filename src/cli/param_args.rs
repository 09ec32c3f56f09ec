//! Flags made from the definitions of parameters, and the parameters read back from them.

use clap::{Arg, ArgAction, ArgMatches};
use serde_json::{Map, Value};

use crate::params::interface::Interface;
use crate::params::kind::Kind;
use crate::params::param::{GLOBAL, Param, Presence, plain};

/// The parameters that are flags of a command's own.
pub(crate) fn own<'a>(params: impl Iterator<Item = &'a Param>) -> impl Iterator<Item = &'a Param> {
    params.filter(|param| !GLOBAL.contains(&param.name))
}

/// What stood on the command line, by parameter.
pub(crate) fn given<'a>(params: impl Iterator<Item = &'a Param>, matches: &ArgMatches) -> Map<String, Value> {
    let mut given = Map::new();
    for param in params {
        if let Ok(Some(texts)) = matches.try_get_many::<String>(param.name) {
            given.insert(param.name.into(), param.kind.read_text(&texts.cloned().collect::<Vec<_>>()));
        }
    }
    given
}

/// A parameter as a flag.
pub(crate) fn flag(param: &Param) -> Arg {
    let long = Interface::Cli.spell(param.name).trim_start_matches("--").to_string();
    let default = match param.presence {
        Presence::Default if param.kind != Kind::Bool => format!(" [default: {}]", plain(&(param.default)())),
        _ => String::new(),
    };
    let choices = match param.kind {
        Kind::Choice(names) | Kind::ChoiceList(names) => format!(" [{}]", names.join(", ")),
        _ => String::new(),
    };
    let arg = Arg::new(param.name).long(long).help(format!("{}{choices}{default}", param.full_help())).allow_negative_numbers(true);
    match param.kind {
        // `--overwrite` alone, or `--overwrite=false`.
        Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true).value_name("BOOL"),
        Kind::TextList | Kind::ChoiceList(_) => arg.num_args(1..).action(ArgAction::Append).value_name("NAME"),
        Kind::IntList => arg.num_args(1..).action(ArgAction::Append).value_name("N"),
        Kind::Paths => arg.num_args(1..).action(ArgAction::Append).value_name("PATH"),
        Kind::Prompts => arg.action(ArgAction::Append).allow_hyphen_values(true).value_name("TEXT"),
        Kind::Object => arg.action(ArgAction::Append).value_name("NAME=VALUE"),
        Kind::Int { .. } | Kind::IntChoice(_) | Kind::Float { .. } => arg.value_name("N"),
        Kind::Path | Kind::Model | Kind::Adapter => arg.value_name("PATH"),
        _ => arg.value_name("NAME"),
    }
}

/// A required parameter that is named without a flag.
pub(crate) fn positional(param: &'static Param, value_name: &'static str) -> Arg {
    let arg = Arg::new(param.name).required(true).value_name(value_name).help(param.help.trim());
    if param.kind.repeats() { arg.num_args(1..) } else { arg }
}

/// `--session`.
pub(crate) fn session() -> Arg {
    Arg::new("session").long("session").value_name("ID").help("The session [default: a fresh id]")
}
