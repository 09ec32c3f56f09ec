//! The whole command line as types.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::commands::{DatasetArgs, Doctor, Resume, Run, Sessions, Setup, StatusArgs, TaskArgs, pipeline_file};
use crate::cli::global::GlobalArgs;

const AFTER: &str = "Sessions are folders in runs/ (--runs-dir, PYRUST_NN_RUNS). Exit codes: 0 success, 1 failure, 2 wrong usage or input, 130 interrupted.";

/// From a JSON file of conversations to a fine-tuned Qwen model, its quantized and GGUF forms, and their answers
#[derive(Parser, Debug)]
#[command(name = "pyrust-nn", version, after_help = AFTER, max_term_width = 120)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The default command's own arguments.
    #[command(flatten, next_help_heading = "Options of run, the default command")]
    pub run: Run,
}

/// What is to be done.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Run(Run),
    #[command(flatten)]
    Task(TaskArgs),
    Resume(Resume),
    Status(StatusArgs),
    #[command(flatten)]
    Dataset(DatasetArgs),
    Sessions(Sessions),
    Setup(Setup),
    Doctor(Doctor),
}

impl CommandLine {
    /// Reads the arguments; the first is the program's name.
    pub(crate) fn read(argv: &[String]) -> Result<CommandLine, clap::Error> {
        let mut command = CommandLine::command();
        let matches = command.try_get_matches_from_mut(argv).map_err(|error| misspelt(argv).unwrap_or(error))?;
        // clap gives arguments before a command to the default command, which would then not run.
        if let (Some(name), Some(early)) = (matches.subcommand_name(), early(&command, &matches)) {
            let message = format!("{early} stands before the command {name}; write it after {name}");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        let mut line = CommandLine::from_arg_matches(&matches)?;
        // A flag may stand on either side of the command's name; clap keeps the command's side.
        if let Some((_, own)) = matches.subcommand() {
            line.global = GlobalArgs::from_arg_matches(own)?;
        }
        Ok(line)
    }

    /// The command, `run` where none is named.
    pub(crate) fn into_parts(self) -> (GlobalArgs, Command) {
        (self.global, self.command.unwrap_or(Command::Run(self.run)))
    }
}

/// Where a word stands that is neither a command nor a pipeline file, that is the error, and not the words behind it.
fn misspelt(argv: &[String]) -> Option<clap::Error> {
    let mut command = CommandLine::command();
    let any = |arg: clap::Arg| arg.num_args(0..).value_parser(clap::builder::ValueParser::string());
    let matches = command.clone().mut_arg("file", any).try_get_matches_from(argv).ok()?;
    let word = matches.get_raw("file")?.next()?.to_string_lossy().into_owned();
    let why = pipeline_file(&word).err()?;
    Some(command.error(ErrorKind::InvalidSubcommand, format!("{word} is {why}")))
}

/// The first argument of the default command that was given.
fn early(command: &clap::Command, matches: &ArgMatches) -> Option<String> {
    let given = |arg: &&clap::Arg| {
        let source = matches.try_contains_id(arg.get_id().as_str()).ok().and_then(|_| matches.value_source(arg.get_id().as_str()));
        !arg.is_global_set() && source == Some(ValueSource::CommandLine)
    };
    command.get_arguments().find(given).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::param_args::own;
    use crate::tasks::TASKS;

    fn read(words: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::read(&std::iter::once("pyrust-nn").chain(words.iter().copied()).map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_commands_are_sound_and_have_a_flag_for_every_parameter() {
        CommandLine::command().debug_assert();
        for task in TASKS {
            let command = CommandLine::command();
            let found = command.find_subcommand(task.command()).unwrap();
            for param in own(task.all_params()) {
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
        assert!(message.contains("--session <ID> stands before the command merge"), "{message}");
    }

    #[test]
    fn a_misspelt_command_is_answered_with_the_near_one() {
        for words in [&["stauts", "s1"][..], &["stauts"]] {
            let message = read(words).unwrap_err().to_string();
            assert!(message.contains("stauts") && message.contains("status"), "{message}");
        }
    }
}
