//! Parsing of the whole command line.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::commands::{DatasetArgs, DoctorArgs, ResumeArgs, RunArgs, SessionsArgs, SetupArgs, StatusArgs, TaskArgs, pipeline_file};
use crate::cli::global::GlobalArgs;
use crate::params::interface::Interface;
use crate::params::other_names::our_name;

const AFTER_HELP: &str = "Sessions are folders in runs/ (--runs-dir, PYRUST_NN_RUNS). Exit codes: 0 success, 1 failure, 2 wrong usage or input, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).";

/// Fine-tune, quantize, convert to GGUF and run Qwen models, from a JSON file of conversations
#[derive(Parser, Debug)]
#[command(name = "pyrust-nn", version, after_help = AFTER_HELP, max_term_width = 120)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The arguments of `run`, the default command.
    #[command(flatten, next_help_heading = "Options of run, the default command")]
    pub run: RunArgs,
}

/// A command with its arguments.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Run(RunArgs),
    #[command(flatten)]
    Task(TaskArgs),
    Resume(ResumeArgs),
    Status(StatusArgs),
    #[command(flatten)]
    Dataset(DatasetArgs),
    Sessions(SessionsArgs),
    Setup(SetupArgs),
    Doctor(DoctorArgs),
}

impl CommandLine {
    /// Parses the arguments; the first is the program's name.
    pub(crate) fn parse(argv: &[String]) -> Result<CommandLine, clap::Error> {
        let mut command = CommandLine::command();
        let matches =
            command.try_get_matches_from_mut(argv).map_err(|error| unknown_command(argv).unwrap_or_else(|| with_our_name(error, argv)))?;
        // clap assigns arguments before a command to the default command, which does not run then. They would be ignored silently.
        if let (Some(name), Some(argument)) = (matches.subcommand_name(), first_run_argument(&command, &matches)) {
            let message = format!("{argument} is before the command {name}; write it after {name}");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        let mut line = CommandLine::from_arg_matches(&matches)?;
        // A global flag may be before or after the command's name; clap keeps the value after it.
        if let Some((_, own)) = matches.subcommand() {
            line.global = GlobalArgs::from_arg_matches(own)?;
        }
        Ok(line)
    }

    /// The global options and the command, by default `run`.
    pub(crate) fn into_parts(self) -> (GlobalArgs, Command) {
        (self.global, self.command.unwrap_or(Command::Run(self.run)))
    }
}

/// The error for a first word that is neither a command nor a pipeline file. clap itself would complain about the words after it.
fn unknown_command(argv: &[String]) -> Option<clap::Error> {
    let mut command = CommandLine::command();
    let any = |arg: clap::Arg| arg.num_args(0..).value_parser(clap::builder::ValueParser::string());
    let matches = command.clone().mut_arg("file", any).try_get_matches_from(argv).ok()?;
    let word = matches.get_raw("file")?.next()?.to_string_lossy().into_owned();
    let why = pipeline_file(&word).err()?;
    Some(command.error(ErrorKind::InvalidSubcommand, format!("{word} is {why}")))
}

/// For an unknown flag that is another tool's name of a parameter of the command, suggests ours instead of a similarly spelled one.
fn with_our_name(mut error: clap::Error, argv: &[String]) -> clap::Error {
    let root = CommandLine::command();
    let command = argv.iter().skip(1).find_map(|word| root.find_subcommand(word)).unwrap_or(&root);
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg).cloned() else { return error };
    let name = flag.trim_start_matches('-').replace('-', "_");
    let ours = our_name(&name).filter(|ours| command.get_arguments().any(|arg| arg.get_id() == ours));
    if let (ErrorKind::UnknownArgument, Some(ours)) = (error.kind(), ours) {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(Interface::Cli.spell(ours)));
        error.remove(ContextKind::Usage); // it shows clap's own suggestion
    }
    error
}

/// The first argument of the default command that was given.
fn first_run_argument(command: &clap::Command, matches: &ArgMatches) -> Option<String> {
    let given = |arg: &&clap::Arg| {
        let source = matches.try_contains_id(arg.get_id().as_str()).ok().and_then(|_| matches.value_source(arg.get_id().as_str()));
        !arg.is_global_set() && source == Some(ValueSource::CommandLine)
    };
    command.get_arguments().find(given).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::param_args::command_params;
    use crate::tasks::TASKS;

    fn read(words: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::parse(&std::iter::once("pyrust-nn").chain(words.iter().copied()).map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn every_command_is_valid_and_has_a_flag_for_every_parameter() {
        CommandLine::command().debug_assert();
        for task in TASKS {
            let command = CommandLine::command();
            let found = command.find_subcommand(task.command()).unwrap();
            for param in command_params(task.all_params()) {
                assert!(found.get_arguments().any(|arg| arg.get_id() == param.name), "{} of {}", param.name, task.name);
            }
        }
    }

    #[test]
    fn a_flag_s_value_is_never_a_command() {
        let (global, command) = read(&["--runs-dir", "status"]).unwrap().into_parts();
        assert_eq!(global.runs_dir.as_deref(), Some(std::path::Path::new("status")));
        assert!(matches!(command, Command::Run(_)), "{command:?}");
        let (_, command) = read(&["p.toml", "--session", "merge"]).unwrap().into_parts();
        assert!(matches!(&command, Command::Run(run) if run.session.as_deref() == Some("merge")), "{command:?}");
        let (global, command) = read(&["--offline", "status", "s1", "--json"]).unwrap().into_parts();
        assert!(global.offline && global.json && matches!(command, Command::Status(_)), "{command:?}");
    }

    #[test]
    fn arguments_of_run_before_another_command_are_refused() {
        let message = read(&["--session", "s1", "merge", "--model", "m"]).unwrap_err().to_string();
        assert!(message.contains("--session <ID> is before the command merge"), "{message}");
    }

    #[test]
    fn another_tool_s_flag_is_answered_with_ours() {
        for (theirs, ours) in
            [("--lr", "--learning-rate"), ("--epochs", "--num-epochs"), ("--cutoff-len", "--max-length"), ("--r", "--lora-rank")]
        {
            let message = read(&["finetune-lora", "--model", "m", "--dataset-path", "d", theirs, "1"]).unwrap_err().to_string();
            assert!(message.contains(theirs) && message.contains(&format!("'{ours}'")), "{message}");
        }
        let message = read(&["merge", "--model", "m", "--lr", "1"]).unwrap_err().to_string();
        assert!(!message.contains("--learning-rate"), "merge has no such parameter: {message}");
    }

    #[test]
    fn a_misspelled_command_gets_a_suggestion() {
        for words in [&["stauts", "s1"][..], &["stauts"]] {
            let message = read(words).unwrap_err().to_string();
            assert!(message.contains("stauts") && message.contains("status"), "{message}");
        }
    }
}
