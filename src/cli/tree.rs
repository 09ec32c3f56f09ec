//! The clap commands, made from the rows of tasks and their parameters.

use clap::{Arg, ArgAction, Command, value_parser};

use crate::dataset::{QUERIES, Query};
use crate::generate::plain;
use crate::params::{Door, GLOBAL, Kind, MODEL, Param, Presence};
use crate::task::{TASKS, Task};

const AFTER: &str = "Sessions are folders in runs/ (--runs-dir, PYRUST_NN_RUNS). Exit codes: 0 success, 1 failure, 2 wrong usage or input, 130 interrupted.";

/// The whole tree.
pub(super) fn command() -> Command {
    Command::new("pyrust-nn")
        .version(env!("CARGO_PKG_VERSION"))
        .about("From a JSON file of conversations to a fine-tuned Qwen model, its quantized and GGUF forms, and their answers")
        .after_help(AFTER)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(120)
        .args(globals())
        .subcommand(run())
        .subcommands(TASKS.iter().map(task))
        .subcommand(
            Command::new("resume")
                .about("Go on with what was interrupted: a fine-tuning from its last checkpoint, and the rest of its pipeline")
                .arg(Arg::new("session").required(true).help("The session"))
                .arg(Arg::new("step").long("step").value_name("NAME").help("That step alone")),
        )
        .subcommand(
            Command::new("status")
                .about("Show each step's state and the last lines of the log")
                .arg(Arg::new("session").required(true).help("The session"))
                .arg(
                    Arg::new("lines")
                        .short('n')
                        .long("lines")
                        .value_parser(value_parser!(usize))
                        .default_value("20")
                        .help("Lines of the log"),
                ),
        )
        .subcommands(QUERIES.iter().map(query))
        .subcommand(Command::new("sessions").about("List the sessions"))
        .subcommand(Command::new("setup").about("Find the Python environment, or make it"))
        .subcommand(Command::new("doctor").about("Say what is missing, and the cure"))
}

/// A task's parameters that are flags of its own.
pub(super) fn own_params(task: &Task) -> impl Iterator<Item = &'static Param> + use<> {
    task.all_params().filter(|param| !GLOBAL.contains(&param.name))
}

/// The parameters of a pipeline's top level that are worth a flag: those that nearly every task has, and the data set.
pub(super) fn pipeline_params() -> impl Iterator<Item = &'static Param> {
    let wanted = ["model", "dataset_path", "device", "seed", "overwrite"];
    TASKS[0].all_params().filter(move |param| wanted.contains(&param.name))
}

fn run() -> Command {
    Command::new("run")
        .about("Run a pipeline file (the default command)")
        .arg(Arg::new("file").value_name("FILE").help("The pipeline file [default: pipeline.toml]"))
        .arg(
            Arg::new("init")
                .long("init")
                .action(ArgAction::SetTrue)
                .help("Write the sample pipeline.toml and data.json here, and run nothing"),
        )
        .arg(session())
        .args(pipeline_params().map(|param| flag(param).help(format!("{} (of every step that has it)", param.help.trim()))))
}

/// The parameters of a question that are flags of its own.
pub(super) fn query_params(query: &Query) -> impl Iterator<Item = &'static Param> + use<> {
    std::iter::once(&MODEL).chain((query.params)()).filter(|param| !GLOBAL.contains(&param.name))
}

fn query(query: &Query) -> Command {
    Command::new(query.command).about(query.about).args(query_params(query).map(files_first))
}

/// The data set is named without a flag.
fn files_first(param: &'static Param) -> Arg {
    if param.name == "dataset_path" {
        return Arg::new("dataset_path").value_name("DATA").num_args(1..).required(true).help(param.help.trim());
    }
    flag(param)
}

fn task(task: &Task) -> Command {
    let mut command = Command::new(task.command()).about(task.about).arg(session());
    for param in own_params(task) {
        command = command.arg(if param.name == "script" {
            Arg::new("script").required(true).value_name("FILE").help(param.help.trim())
        } else {
            flag(param)
        });
    }
    command
}

fn session() -> Arg {
    Arg::new("session").long("session").value_name("ID").help("The session [default: a fresh id]")
}

fn flag(param: &Param) -> Arg {
    let long = Door::Cli.spell(param.name).trim_start_matches("--").to_string();
    let default = match param.presence {
        Presence::Default if param.kind != Kind::Bool => format!(" [default: {}]", plain(&(param.default)())),
        _ => String::new(),
    };
    let choices = match param.kind {
        Kind::Choice(names) | Kind::ChoiceList(names) => format!(" [{}]", names.join(", ")),
        _ => String::new(),
    };
    let arg = Arg::new(param.name).long(long).help(format!("{}{choices}{default}", param.help.trim())).allow_negative_numbers(true);
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

fn globals() -> Vec<Arg> {
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name.replace('_', "-")).action(ArgAction::SetTrue).global(true).help(help)
    };
    vec![
        Arg::new("runs_dir")
            .long("runs-dir")
            .value_name("PATH")
            .global(true)
            .help("Folder of all sessions [default: PYRUST_NN_RUNS, else runs]"),
        Arg::new("python_env")
            .long("python-env")
            .value_name("PATH")
            .global(true)
            .help("The Python environment to use [default: VIRTUAL_ENV, ./.venv, the checkout's .venv]"),
        switch("no_setup", "Install nothing: fail where the Python environment is missing"),
        switch("offline", "Open no socket"),
        switch("json", "Print one JSON document on stdout and nothing else there"),
        switch("quiet", "Show warnings and errors alone").short('q'),
        switch("verbose", "Show debug lines").short('v'),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound_and_has_a_flag_for_every_parameter() {
        command().debug_assert();
        for task in &TASKS {
            let command = command();
            let own = command.find_subcommand(task.command()).unwrap();
            for param in own_params(task) {
                assert!(own.get_arguments().any(|arg| arg.get_id() == param.name), "{} of {}", param.name, task.name);
            }
        }
    }
}
