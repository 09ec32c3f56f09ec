//! Explains words of a command line that clap does not know: commands and flags of other tools, misspelled ones, and those of another
//! command; and what a command line lacks. Each error has one suggestion, or none: clap's own are by spelling alone.

use clap::builder::{StyledStr, ValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::base::error::did_you_mean;
use crate::base::one_of::one_of;
use crate::cli::commands::{OF_ONE_STEP, pipeline_file};
use crate::cli::other_tools::{our_commands, our_commands_nearly, our_flag, our_tip};
use crate::params::interface::Interface;
use crate::params::names_of_other_tools::{counts_steps, our_name, our_name_nearly};
use crate::tasks::TASKS;

/// Commands, and the flag that takes a second name, which people write behind the first.
const SECOND_NAMES: [(&str, &str); 3] = [("import", "--session"), ("resume", "--step"), ("reproduce", "--into")];

/// The error that parsing `argv` by the command line `root` gave, with what was probably meant.
pub(super) fn explained(error: clap::Error, root: &Command, argv: &[String]) -> clap::Error {
    let found = unknown_command(&error, root, argv).or_else(|| unknown_action(&error, root, argv));
    found.or_else(|| missing_argument(&error, root, argv)).unwrap_or_else(|| missing_value(unknown_argument(error, root, argv)))
}

/// The error for a command without an argument that it must have, such as `export needs SESSION: the name of the session`.
fn missing_argument(error: &clap::Error, root: &Command, argv: &[String]) -> Option<clap::Error> {
    let missing = match (error.kind(), error.get(ContextKind::InvalidArg)?) {
        (ErrorKind::MissingRequiredArgument, ContextValue::Strings(all)) => all.first()?,
        (ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues, ContextValue::String(one)) => one,
        _ => return None,
    };
    let mut built = root.clone();
    built.build();
    let (name, command) = given_command(&built, argv);
    let lacks = |arg: &&Arg| arg.is_positional() && missing.contains(&arg.to_string());
    let arg = command.get_positionals().find(lacks)?;
    let choices: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_string()).collect();
    let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.trim_end_matches(" [required]");
    let mut letters = help.chars();
    let help = letters.next().map(|first| format!("{}{}", first.to_lowercase(), letters.as_str())).unwrap_or_default();
    let what = if choices.is_empty() { help } else { one_of(&choices) };
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("a value", |name| name.as_str());
    Some(command.clone().error(error.kind(), format!("{name} needs {value}: {what}")))
}

/// With the values of a parameter that was given without one, such as `--packing`.
fn missing_value(mut error: clap::Error) -> clap::Error {
    let is_missing = error.kind() == ErrorKind::InvalidValue
        && matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty());
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg).filter(|_| is_missing) else { return error };
    let flag = arg.split([' ', '=']).next().unwrap_or_default().to_string();
    let mut params = TASKS.iter().flat_map(|task| task.all_params());
    if let Some(param) = params.find(|param| Interface::Cli.spell(param.name) == flag) {
        let tip = StyledStr::from(format!("'{flag}' takes {}", param.value_type.expected()));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// The error for a first word that is neither a command nor a pipeline file. clap itself would complain about the words after it.
fn unknown_command(error: &clap::Error, root: &Command, argv: &[String]) -> Option<clap::Error> {
    let word = first_word(root, argv).filter(|_| error.kind() != ErrorKind::DisplayHelp)?;
    // It may be the value of an unknown flag before it.
    let place = |word: &str| argv.iter().position(|one| one.split('=').next() == Some(word));
    if let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg)
        && place(wrong).is_some_and(|wrong| Some(wrong) < place(&word))
    {
        return None;
    }
    if pipeline_file(&word).is_ok() {
        return None;
    }
    let message = match (word.as_str(), argv.get(2)) {
        ("version", _) => "version is neither a command nor a pipeline file (.toml); did you mean --version?".to_string(),
        ("help", Some(command)) => format!("there is no command {command} to help with; {}", meant_command(root, command)),
        _ => format!("{word} is neither a command nor a pipeline file (.toml); {}", meant_command(root, &word)),
    };
    Some(root.clone().error(ErrorKind::InvalidSubcommand, message))
}

/// The first word that is neither a command nor part of a flag.
fn first_word(root: &Command, argv: &[String]) -> Option<String> {
    if let Some(word) = argv.get(1).filter(|word| !word.starts_with('-')) {
        return root.find_subcommand(word).is_none().then(|| word.clone());
    }
    let any = |arg: Arg| arg.num_args(0..).value_parser(ValueParser::string());
    let lenient = root.clone().mut_arg("file", any);
    let matches = lenient.clone().try_get_matches_from(argv).or_else(|_| lenient.ignore_errors(true).try_get_matches_from(argv)).ok()?;
    let word = matches.get_raw("file").filter(|_| matches.subcommand_name().is_none())?.next()?;
    Some(word.to_string_lossy().into_owned())
}

fn meant_command(root: &Command, word: &str) -> String {
    let ours = our_commands(word);
    let names = root.get_subcommands().map(Command::get_name).filter(|name| *name != "help");
    let mut near = if ours.is_empty() { did_you_mean(word, names).into_iter().collect() } else { ours.to_vec() };
    if near.is_empty() {
        near = our_commands_nearly(word).to_vec();
    }
    if near.is_empty() { "pyrust-nn --help lists them".into() } else { format!("did you mean the command {}?", one_of(&near)) }
}

/// The error for a word after a command that has commands of its own, such as `sessions list`, if it is known from elsewhere.
fn unknown_action(error: &clap::Error, root: &Command, argv: &[String]) -> Option<clap::Error> {
    let (ContextValue::String(word), ErrorKind::InvalidSubcommand) = (error.get(ContextKind::InvalidSubcommand)?, error.kind()) else {
        return None;
    };
    let (name, _) = given_command(root, argv);
    let ours = actions(&name, our_commands(word)).or_else(|| actions(&name, our_commands_nearly(word)))?;
    Some(root.clone().error(ErrorKind::InvalidSubcommand, format!("{name} has no command {word}; did you mean {ours}?")))
}

/// Those of our commands that are below the command `name`, as `` `pyrust-nn sessions rm` ``.
fn actions(name: &str, ours: &[&str]) -> Option<String> {
    let command = name.split(' ').next();
    let ours = ours.iter().filter(|ours| ours.split(' ').next() == command);
    let ours: Vec<String> = ours.map(|ours| format!("`pyrust-nn {ours}`")).collect();
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    (!ours.is_empty()).then(|| one_of(&ours))
}

/// The innermost command that was named, with the words that name it; the whole program if none was.
fn given_command<'a>(root: &'a Command, argv: &[String]) -> (String, &'a Command) {
    let (mut words, mut command) = (Vec::new(), root);
    for word in argv.iter().skip(1).filter(|word| !word.starts_with('-')) {
        if let Some(inner) = command.find_subcommand(word) {
            words.push(inner.get_name());
            command = inner;
        }
    }
    (words.join(" "), command)
}

/// How the command that was named is called.
fn usage(root: &Command, argv: &[String]) -> StyledStr {
    let mut built = root.clone();
    built.build();
    given_command(&built, argv).1.clone().render_usage()
}

/// What was meant by an argument that a command does not have.
enum Suggestion {
    Flag(String),
    Tip(String),
}

fn unknown_argument(mut error: clap::Error, root: &Command, argv: &[String]) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg).cloned() else { return error };
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let (name, command) = match given_command(root, argv) {
        // The program's own arguments are those of run, without being in its help.
        (name, _) if name.is_empty() => ("run".to_string(), root.find_subcommand("run").unwrap_or(root)),
        found => found,
    };
    // clap reads `-lr` as `-l -r`.
    let is_short = word.starts_with('-') && !word.starts_with("--");
    let whole = argv.iter().find(|one| is_short && one.starts_with(&word)).unwrap_or(&word);
    let meant = match whole.trim_start_matches('-') {
        flag if whole.starts_with('-') => meant_flag(root, command, &name, flag.split('=').next().unwrap_or_default()),
        extra => {
            SECOND_NAMES.iter().find(|(known, _)| *known == name).map(|(_, flag)| Suggestion::Tip(format!("give it as '{flag} {extra}'")))
        }
    };
    let is_text = command.get_arguments().any(|arg| arg.get_id() == "prompt as an argument");
    if meant.is_some() || !is_text {
        error.remove(ContextKind::Suggested);
    }
    error.remove(ContextKind::SuggestedArg);
    // clap's own shows its own suggestion.
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage(root, argv)));
    match meant {
        Some(Suggestion::Flag(flag)) => drop(error.insert(ContextKind::SuggestedArg, ContextValue::String(flag))),
        Some(Suggestion::Tip(tip)) => drop(error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]))),
        None => {}
    }
    error
}

/// What is meant by a flag that the command `name` does not have.
fn meant_flag(root: &Command, command: &Command, name: &str, flag: &str) -> Option<Suggestion> {
    let key = flag.replace('-', "_");
    let flags: Vec<&Arg> = flags_of(root, command).collect();
    if counts_steps(&key) && flags.iter().any(|arg| arg.get_id() == "num_epochs") {
        return Some(Suggestion::Tip("'--num-epochs' says how long to train: epochs = steps × rows of a step / rows of the data".into()));
    }
    if let Some(ours) = our_flag(name, flag) {
        return Some(Suggestion::Flag(ours.to_string()));
    }
    if let Some(tip) = our_tip(name, |ours| flags.iter().any(|arg| arg.get_long() == Some(ours)), flag) {
        return Some(Suggestion::Tip(tip.to_string()));
    }
    if let Some(ours) = our_name(&key, |ours| flags.iter().any(|arg| arg.get_id() == ours)) {
        return Some(Suggestion::Flag(Interface::Cli.spell(ours)));
    }
    if let Some(ours) = actions(name, our_commands(flag)) {
        return Some(Suggestion::Tip(format!("did you mean {ours}?")));
    }
    if name == "run" && OF_ONE_STEP.contains(&key.as_str()) {
        let one = if flag == "step" { "; `pyrust-nn resume <SESSION> --step <NAME>` runs one" } else { "" };
        return Some(Suggestion::Tip(format!("'--{flag}' is of one step, and run runs all of the file; set it in the file{one}")));
    }
    if let Some(near) = similar_flag(&flags, flag) {
        return Some(Suggestion::Flag(format!("--{near}")));
    }
    if let Some(ours) = our_name_nearly(&key, |ours| flags.iter().any(|arg| arg.get_id() == ours)) {
        return Some(Suggestion::Flag(Interface::Cli.spell(ours)));
    }
    let has = |other: &&Command| other.get_arguments().any(|arg| arg.get_long() == Some(flag) && !arg.is_global_set());
    let others: Vec<&str> = root.get_subcommands().filter(has).map(Command::get_name).filter(|other| *other != "run").take(3).collect();
    (!others.is_empty()).then(|| Suggestion::Tip(format!("'--{flag}' is an option of {}", others.join(", "))))
}

/// The flags in the help of a command, with those of every command.
fn flags_of<'a>(root: &'a Command, command: &'a Command) -> impl Iterator<Item = &'a Arg> {
    let own = command.get_arguments().filter(|arg| !arg.is_global_set());
    own.chain(root.get_arguments().filter(|arg| arg.is_global_set())).filter(|arg| arg.get_long().is_some() && !arg.is_hide_set())
}

/// The flag of which another is a misspelling, a part or an extension.
fn similar_flag<'a>(flags: &[&'a Arg], wrong: &str) -> Option<&'a str> {
    const LEAST: usize = 4;
    let is_part = |flag: &str| wrong.len() >= LEAST && (flag.contains(wrong) || wrong.contains(flag) && flag.len() >= LEAST);
    let is_near = |flag: &str| strsim::damerau_levenshtein(wrong, flag) <= (wrong.len() / LEAST).clamp(1, 3);
    let longs = flags.iter().filter_map(|arg| arg.get_long());
    let rated = longs.filter(|flag| is_part(flag) || is_near(flag)).map(|flag| (strsim::jaro_winkler(wrong, flag), flag));
    rated.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, flag)| flag)
}
