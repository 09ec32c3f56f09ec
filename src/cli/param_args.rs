//! Builds flags from parameter definitions, and reads the given parameters from parsed flags.
//!
//! clap reads values as strings only. Types and bounds are checked in `params/param_type.rs`, because clap knows no JSON types, and a
//! struct made in Rust passes no command-line parser.

use clap::{Arg, ArgAction, ArgMatches, ValueHint};
use serde_json::{Map, Value};

use crate::params::group::Group;
use crate::params::interface::Interface;
use crate::params::param::{Param, Presence, display_value};
use crate::params::param_type::ParamType;

/// Flags with a short form.
const SHORT_FLAGS: [(&str, char); 2] = [("model", 'm'), ("dataset_path", 'd')];

/// Parameters that may also be given without their flag, and the name of the value.
const POSITIONALS: [(&str, &str); 4] = [("candidate", "CANDIDATE"), ("dataset_path", "DATA"), ("prompt", "PROMPT"), ("script", "FILE")];

/// What a task works on. It is given without its flag if nothing else of the command is.
const INPUTS: [(&str, &str); 2] = [("model", "MODEL"), ("adapter", "ADAPTER")];

/// The name of the value of a parameter that may be given without its flag, in a command with these parameters.
fn positional_name(param: &Param, all: &[&Param]) -> Option<&'static str> {
    let among = |names: &[(&str, &'static str)], param: &Param| names.iter().find(|(name, _)| *name == param.name).map(|(_, value)| *value);
    let is_input = param.presence == Presence::Required && !all.iter().any(|one| among(&POSITIONALS, one).is_some());
    among(&POSITIONALS, param).or_else(|| among(&INPUTS, param).filter(|_| is_input))
}

/// The parameters that are flags of the command itself, not global ones.
pub(crate) fn command_params<'a>(params: impl Iterator<Item = &'a Param>) -> impl Iterator<Item = &'a Param> {
    params.filter(|param| param.group != Group::Global)
}

/// The parameters given on the command line.
pub(crate) fn given<'a>(params: impl Iterator<Item = &'a Param>, matches: &ArgMatches) -> Map<String, Value> {
    let mut given = Map::new();
    for param in params {
        if let Ok(Some(true)) = matches.try_get_one::<bool>(&off_id(param)) {
            given.insert(param.name.into(), Value::Bool(false));
        }
        for id in [param.name.to_string(), positional_id(param)] {
            if let Ok(Some(texts)) = matches.try_get_many::<String>(&id) {
                given.insert(param.name.into(), param.value_type.parse_text(&texts.cloned().collect::<Vec<_>>()));
            }
        }
    }
    given
}

/// The arguments of a command: the positional ones, and a flag for each parameter.
pub(crate) fn args(params: impl Iterator<Item = &'static Param>) -> impl Iterator<Item = Arg> {
    let params: Vec<&Param> = command_params(params).collect();
    let positionals: Vec<Arg> = params.iter().filter_map(|param| Some(positional(param, positional_name(param, &params)?))).collect();
    positionals.into_iter().chain(flags(params.into_iter(), false))
}

/// The flags of parameters, in the order of their groups. `of_run`: another source, the pipeline file, may give what is required, and
/// defaults differ between tasks.
pub(crate) fn flags(params: impl Iterator<Item = &'static Param>, of_run: bool) -> impl Iterator<Item = Arg> {
    let mut params: Vec<&Param> = params.collect();
    params.sort_by_key(|param| param.group);
    params.into_iter().flat_map(move |param| {
        let heading = param.group.heading();
        [Some(flag(param, of_run)), off(param)].into_iter().flatten().map(move |arg| arg.help_heading(heading))
    })
}

/// The command's usage: first what must be given.
pub(crate) fn usage(command: &str, params: impl Iterator<Item = &'static Param>) -> String {
    let mut words = vec![format!("pyrust-nn {command}")];
    let all: Vec<&Param> = command_params(params).collect();
    for param in &all {
        match (positional_name(param, &all), param.presence) {
            (Some(value), Presence::Required) => {
                words.push(format!("<{value}>{}", if param.value_type.repeats() { "..." } else { "" }));
            }
            (Some(value), _) => words.push(format!("[{value}]...")),
            (None, Presence::Required) => words.push(format!("{} <{}>", Interface::Cli.spell(param.name), value_name(param.value_type))),
            _ => {}
        }
    }
    words.push("[OPTIONS]".into());
    words.join(" ")
}

/// The flag of a parameter.
fn flag(param: &Param, of_run: bool) -> Arg {
    let long = Interface::Cli.spell(param.name).trim_start_matches("--").to_string();
    let note = match param.presence {
        _ if of_run => String::new(),
        Presence::Default if param.value_type != ParamType::Bool => format!(" [default: {}]", display_value(&(param.default)())),
        Presence::Required => " [required]".to_string(),
        _ => String::new(),
    };
    let choices = match param.value_type {
        ParamType::Choice(names) | ParamType::ChoiceList(names) | ParamType::Caseless(names) | ParamType::CaselessList { names, .. } => {
            format!(" [{}]", names.join(", "))
        }
        _ => String::new(),
    };
    let mut arg = Arg::new(param.name).long(long).help(format!("{}{choices}{note}", param.full_help())).allow_negative_numbers(true);
    if let Some((_, short)) = SHORT_FLAGS.iter().find(|(name, _)| *name == param.name) {
        arg = arg.short(*short);
    }
    let arg = arg.value_name(value_name(param.value_type)).value_hint(value_hint(param.value_type));
    match param.value_type {
        // `--overwrite` or `--overwrite=false`.
        ParamType::Bool => {
            let arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true);
            arg.hide(param.on_by_default())
        }
        ParamType::StringList | ParamType::ChoiceList(_) | ParamType::CaselessList { .. } | ParamType::IntList | ParamType::Paths => {
            arg.num_args(1..).action(ArgAction::Append)
        }
        ParamType::Prompts | ParamType::TextList => arg.action(ArgAction::Append).allow_hyphen_values(true),
        ParamType::GgufAdapters
        | ParamType::NamedArtifacts
        | ParamType::FloatList { .. }
        | ParamType::Object
        | ParamType::JsonObject
        | ParamType::Names(_) => arg.action(ArgAction::Append),
        _ => arg,
    }
}

/// The flag that turns off what is on by default: `--no-verify`. The parameter's own flag is then hidden.
fn off(param: &Param) -> Option<Arg> {
    let long = param.off_flag().trim_start_matches("--").to_string();
    let arg = Arg::new(off_id(param)).long(long).help(format!("Turn this off: {}", param.help.trim()));
    param.on_by_default().then(|| arg.action(ArgAction::SetTrue).conflicts_with(param.name))
}

fn off_id(param: &Param) -> String {
    format!("no {}", param.name)
}

/// What shells complete after the flag.
fn value_hint(value_type: ParamType) -> ValueHint {
    match value_type {
        ParamType::Path
        | ParamType::Paths
        | ParamType::Model
        | ParamType::Adapter
        | ParamType::Candidate
        | ParamType::Imatrix
        | ParamType::AnsweringModel
        | ParamType::GgufAdapters
        | ParamType::NamedArtifacts => ValueHint::AnyPath,
        _ => ValueHint::Unknown,
    }
}

fn value_name(value_type: ParamType) -> &'static str {
    match value_type {
        ParamType::Bool => "BOOL",
        ParamType::Prompts | ParamType::TextList => "TEXT",
        ParamType::Object | ParamType::JsonObject | ParamType::Names(_) => "NAME=VALUE",
        ParamType::Int { .. }
        | ParamType::IntChoice(_)
        | ParamType::IntList
        | ParamType::Processes { .. }
        | ParamType::Float { .. }
        | ParamType::FloatList { .. } => "N",
        ParamType::Path | ParamType::Paths | ParamType::Adapter | ParamType::Candidate | ParamType::Imatrix | ParamType::GgufAdapters => {
            "PATH"
        }
        ParamType::Model | ParamType::AnsweringModel => "MODEL",
        ParamType::NamedArtifacts => "[NAME=]ARTIFACT",
        _ => "NAME",
    }
}

/// A parameter as a positional argument. The flag and the argument exclude each other: two data sets by two ways are
/// more likely a mistake than a wish.
fn positional(param: &Param, value_name: &'static str) -> Arg {
    let required = if param.presence == Presence::Required { " [required]" } else { "" };
    let arg = Arg::new(positional_id(param)).value_name(value_name).conflicts_with(param.name);
    let arg = arg.value_hint(value_hint(param.value_type));
    let arg = arg.help(format!("Instead of {}{required}", Interface::Cli.spell(param.name)));
    if param.value_type.repeats() { arg.num_args(1..) } else { arg }
}

/// clap needs different ids for the flag and the positional argument.
fn positional_id(param: &Param) -> String {
    format!("{} as an argument", param.name)
}

/// `--session`.
pub(crate) fn session() -> Arg {
    let arg = Arg::new("session").long("session").value_name("ID").help_heading(Group::Session.heading());
    arg.help("Name of the session [default: a new id]")
}
