//! Builds flags from parameter definitions, and reads the given parameters from parsed flags.
//!
//! clap reads values as strings only. Types and bounds are checked in `params/validate.rs`, because clap knows no JSON types, and a
//! struct made in Rust passes no command-line parser.

use clap::{Arg, ArgAction, ArgMatches};
use serde_json::{Map, Value};

use crate::params::interface::Interface;
use crate::params::param::{GLOBAL, Param, Presence, display_value};
use crate::params::param_type::ParamType;

/// The parameters that are flags of the command itself, not global ones.
pub(crate) fn command_params<'a>(params: impl Iterator<Item = &'a Param>) -> impl Iterator<Item = &'a Param> {
    params.filter(|param| !GLOBAL.contains(&param.name))
}

/// The parameters given on the command line.
pub(crate) fn given<'a>(params: impl Iterator<Item = &'a Param>, matches: &ArgMatches) -> Map<String, Value> {
    let mut given = Map::new();
    for param in params {
        if let Ok(Some(texts)) = matches.try_get_many::<String>(param.name) {
            given.insert(param.name.into(), param.value_type.parse_text(&texts.cloned().collect::<Vec<_>>()));
        }
    }
    given
}

/// The flag of a parameter.
pub(crate) fn flag(param: &Param) -> Arg {
    let long = Interface::Cli.spell(param.name).trim_start_matches("--").to_string();
    let default = match param.presence {
        Presence::Default if param.value_type != ParamType::Bool => format!(" [default: {}]", display_value(&(param.default)())),
        _ => String::new(),
    };
    let choices = match param.value_type {
        ParamType::Choice(names) | ParamType::ChoiceList(names) => format!(" [{}]", names.join(", ")),
        _ => String::new(),
    };
    let arg = Arg::new(param.name).long(long).help(format!("{}{choices}{default}", param.full_help())).allow_negative_numbers(true);
    match param.value_type {
        // `--overwrite` or `--overwrite=false`.
        ParamType::Bool => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true).value_name("BOOL")
        }
        ParamType::StringList | ParamType::ChoiceList(_) => arg.num_args(1..).action(ArgAction::Append).value_name("NAME"),
        ParamType::IntList => arg.num_args(1..).action(ArgAction::Append).value_name("N"),
        ParamType::Paths => arg.num_args(1..).action(ArgAction::Append).value_name("PATH"),
        ParamType::Prompts => arg.action(ArgAction::Append).allow_hyphen_values(true).value_name("TEXT"),
        ParamType::Object => arg.action(ArgAction::Append).value_name("NAME=VALUE"),
        ParamType::Int { .. } | ParamType::IntChoice(_) | ParamType::Float { .. } => arg.value_name("N"),
        ParamType::Path | ParamType::Model | ParamType::Adapter => arg.value_name("PATH"),
        _ => arg.value_name("NAME"),
    }
}

/// A required parameter as a positional argument.
pub(crate) fn positional(param: &'static Param, value_name: &'static str) -> Arg {
    let arg = Arg::new(param.name).required(true).value_name(value_name).help(param.help.trim());
    if param.value_type.repeats() { arg.num_args(1..) } else { arg }
}

/// `--session`.
pub(crate) fn session() -> Arg {
    Arg::new("session").long("session").value_name("ID").help("Name of the session [default: a new id]")
}
