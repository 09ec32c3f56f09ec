//! Parsing of the whole command line.

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::commands::{
    BoardArgs, CacheArgs, ChatArgs, CompareArgs, CompletionsArgs, DatasetArgs, DoctorArgs, ExportArgs, ExportMetricsArgs, ImportArgs,
    InitArgs, ManArgs, ReportArgs, ReproduceArgs, ResumeArgs, RunArgs, ServeArgs, SessionsArgs, SetupArgs, StatusArgs, TaskArgs, WatchArgs,
};
use crate::cli::examples::{FIRST_STEPS, examples, of_command};
use crate::cli::global::GlobalArgs;
use crate::cli::unknown_arguments::explained;
use crate::params::group::Group;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("PYRUST_NN_COMMIT"));

const USAGE: &str = "pyrust-nn [COMMAND] [OPTIONS]\n       pyrust-nn [FILE] [OPTIONS]      the same as pyrust-nn run";

const NOTES: &str = "A command's own options: pyrust-nn <COMMAND> --help\n\nSessions are folders in runs/ (--runs-dir, PYRUST_NN_RUNS).\nExit codes: 0 success, 1 failure, 2 wrong usage or input, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).";

/// Fine-tune, quantize, convert to GGUF and run Qwen models, from a JSON file of conversations
#[derive(Parser, Debug)]
#[command(name = "pyrust-nn", version = VERSION, override_usage = USAGE, max_term_width = 140, disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The arguments of `run`, the default command.
    #[command(flatten)]
    pub run: RunArgs,
    /// Print the version
    #[arg(short = 'V', long, help_heading = Group::Global.heading(), action = ArgAction::Version)]
    version: Option<bool>,
}

/// A command with its arguments.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Run(RunArgs),
    Init(InitArgs),
    #[command(flatten)]
    Task(TaskArgs),
    #[command(flatten)]
    Chat(ChatArgs),
    #[command(flatten)]
    Serve(ServeArgs),
    Resume(ResumeArgs),
    Reproduce(ReproduceArgs),
    Status(StatusArgs),
    Watch(WatchArgs),
    Report(ReportArgs),
    Compare(CompareArgs),
    #[command(flatten)]
    Board(BoardArgs),
    #[command(flatten)]
    Dataset(DatasetArgs),
    Sessions(SessionsArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    ExportMetrics(ExportMetricsArgs),
    Cache(CacheArgs),
    Setup(SetupArgs),
    Doctor(DoctorArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// The whole command line as clap knows it. The help of the program shows no options of `run`; that of `run` does.
pub(crate) fn command_line() -> clap::Command {
    let own = |arg: &clap::Arg| arg.is_global_set() || arg.get_id() == "version";
    CommandLine::command()
        .styles(
            // As in `text.rs`.
            Styles::styled().invalid(AnsiColor::Magenta.on_default().bold()).valid(AnsiColor::BrightBlue.on_default()),
        )
        .mut_args(|arg| if own(&arg) { arg } else { arg.hide(true) })
        .mut_subcommands(|command| described(command, ""))
        .after_help(format!("{}\n\n{NOTES}", examples(&FIRST_STEPS)))
}

/// A command with its examples, and with marks at the arguments that must be given; so are the commands below it. `above`: their names.
fn described(command: clap::Command, above: &str) -> clap::Command {
    let name = format!("{above}{}", command.get_name());
    let command = match of_command(&name) {
        Some(list) => command.after_help(examples(list)),
        None => command,
    };
    let marked = |arg: clap::Arg| match arg.get_help().map(ToString::to_string) {
        Some(help) if arg.is_positional() && arg.is_required_set() && !help.contains("[required]") => {
            arg.help(format!("{help} [required]"))
        }
        _ => arg,
    };
    command.mut_args(marked).mut_subcommands(|inner| described(inner, &format!("{name} ")))
}

impl CommandLine {
    /// Parses the arguments; the first is the program's name.
    pub(crate) fn parse(argv: &[String]) -> Result<CommandLine, clap::Error> {
        let mut command = command_line();
        let matches = command.try_get_matches_from_mut(argv).map_err(|error| explained(error, &command_line(), argv))?;
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
        command_line().debug_assert();
        for task in TASKS {
            let command = command_line();
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

    /// What stands after `tip: ` in the error.
    fn tips(words: &[&str]) -> Vec<String> {
        let message = read(words).unwrap_err().to_string();
        message.lines().filter_map(|line| line.trim().strip_prefix("tip: ")).map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_word_has_one_suggestion_or_none() {
        let train = ["finetune-lora", "d.json", "-m", "m"];
        let with = |flag: &'static str| [&train[..], &[flag, "3"]].concat();
        for (words, wanted) in [
            (with("--lr"), "'--learning-rate'"),
            (with("-lr"), "'--learning-rate'"),
            (with("--e"), "'--num-epochs'"),
            (with("--max-tokens"), "'--max-length'"),
            (with("--lora-rnk"), "'--lora-rank'"),
            (with("--epohcs"), "'--num-epochs'"),
            (with("--rank"), "'--lora-rank'"),
            (with("--system"), "'--system' is an option of chat"),
            (with("--outtype"), "'--outtype' is an option of convert-model-to-gguf, convert-lora-to-gguf"),
            (vec!["finetune_lora", "data.json", "--lr", "3"], "'--learning-rate'"),
            (vec!["sessions", "--remove", "s1"], "did you mean `pyrust-nn sessions rm`"),
            (vec!["sessions", "--state", "failure"], "'--filter'"),
            (vec!["run", "--step", "x"], "`pyrust-nn resume <SESSION> --step <NAME>` runs one"),
            (vec!["--prompt", "x"], "'--prompt' is of one step"),
            (vec!["status", "s1", "--tail", "5"], "'--lines'"),
            (vec!["quantize-model", "m", "--load-in-4bit"], "'--bits'"),
            (vec!["import", "a.tar", "name"], "give it as '--session name'"),
            (vec!["resume", "s1", "merge"], "give it as '--step merge'"),
        ] {
            let tips = tips(&words);
            assert!(tips.len() == 1 && tips[0].contains(wanted), "{words:?}: {tips:?}");
        }
        for words in [with("--zzz"), vec!["status", "s1", "s2"], vec!["merge", "m", "--gamma", "2"]] {
            assert_eq!(tips(&words), [""; 0], "{words:?}");
        }
        assert_eq!(tips(&["inference", "-m", "m", "--what is this"]).len(), 1, "a prompt may begin with dashes");
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

    /// Every command, also those below others: `sessions rm`.
    fn names() -> Vec<String> {
        fn below(command: &clap::Command, above: &str) -> Vec<String> {
            let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
            inner
                .flat_map(|inner| {
                    let name = format!("{above}{}", inner.get_name());
                    std::iter::once(name.clone()).chain(below(inner, &format!("{name} ")))
                })
                .collect()
        }
        below(&command_line(), "")
    }

    /// The help of a command at a terminal's width.
    fn help(name: &str, width: usize) -> String {
        let mut root = command_line().term_width(width);
        root.build();
        let found = name.split(' ').fold(&mut root, |command, word| command.find_subcommand_mut(word).unwrap());
        found.render_long_help().to_string()
    }

    #[test]
    fn every_command_has_two_examples_which_are_valid() {
        for name in names() {
            let text = help(&name, 80);
            let examples = text.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has no examples")).1.replace("\\\n", " ");
            let lines: Vec<&str> = examples.lines().filter_map(|line| line.trim().strip_prefix("pyrust-nn ")).collect();
            // Without what the shell does with the output.
            let lines: Vec<&str> = lines.into_iter().map(|line| line.split(['>', '|']).next().unwrap()).collect();
            assert_eq!(lines.len(), 2, "{name}: {examples}");
            for line in lines {
                let words: Vec<String> = line
                    .split('"')
                    .enumerate()
                    .flat_map(|(i, part)| match i % 2 {
                        0 => part.split_whitespace().map(ToString::to_string).collect(),
                        _ => vec![part.to_string()],
                    })
                    .collect();
                assert!(words.join(" ").starts_with(&name), "{line}");
                let (global, command) = read(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap().into_parts();
                let resolved = match command {
                    Command::Task(task) => task.resolve(&global).map(drop),
                    Command::Dataset(dataset) => dataset.resolve(&global).map(drop),
                    _ => Ok(()),
                };
                resolved.unwrap_or_else(|cause| panic!("{line}: {cause}"));
            }
        }
    }

    #[test]
    fn help_is_in_groups_with_the_global_options_last_and_fits_the_terminal() {
        for (name, width) in names().iter().flat_map(|name| [(name, 80), (name, 140)]) {
            let text = help(name, width);
            let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(widest.chars().count() <= width, "{name} at {width}: {widest}");
            let headings: Vec<&str> = text.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
            let [.., last, "Examples:"] = headings[..] else { panic!("{name}: {headings:?}") };
            assert_eq!(last, "Global options:", "{name}");
            assert!(text.contains("--quiet") && text.contains("--help"), "{name}");
        }
        let text = help("finetune-lora", 80);
        let order = ["Arguments:", "Model:", "Data:", "Training:", "LoRA:", "Evaluation:", "Output:", "Memory and speed:", "Session:"];
        let places: Vec<usize> = order.iter().map(|heading| text.find(&format!("\n{heading}\n")).expect(heading)).collect();
        assert!(places.is_sorted(), "{text}");
        let lora = &text[places[4]..places[5]];
        assert!(lora.contains("--lora-rank") && !lora.contains("--num-epochs") && !lora.contains("--json"), "{lora}");
    }

    #[test]
    fn what_must_be_given_is_marked() {
        let text = help("finetune-lora", 140).replace('\n', " ");
        let (_, options) = text.split_once("Model:").unwrap();
        let marked: Vec<&str> = options.split(" --").skip(1).filter(|part| part.contains("[required]")).collect();
        assert!(marked.len() == 2 && marked[0].starts_with("model") && marked[1].starts_with("dataset-path"), "{marked:?}");
        assert!(text.contains("Usage: pyrust-nn finetune-lora --model <MODEL> <DATA>... [OPTIONS]"));
        assert!(!help("run", 140).contains("[required]"), "the file gives it");
        for name in ["resume", "reproduce", "compare", "export", "import", "completions"] {
            assert_eq!(help(name, 140).matches("[required]").count(), 1, "{name}: {}", help(name, 140));
        }
    }

    #[test]
    fn short_flags_and_arguments_mean_the_same_as_the_flags() {
        let given = |words: &[&str]| match read(words).unwrap().into_parts() {
            (global, Command::Task(task)) => task.resolve(&global).unwrap(),
            (global, Command::Dataset(dataset)) => dataset.resolve(&global).unwrap(),
            (_, other) => panic!("{other:?}"),
        };
        for command in ["finetune-lora", "finetune-full", "prepare", "check"] {
            let wanted = given(&[command, "--model", "m", "--dataset-path", "a.jsonl", "b.jsonl"]);
            assert_eq!(wanted["dataset_path"], serde_json::json!(["a.jsonl", "b.jsonl"]));
            for words in
                [&["a.jsonl", "b.jsonl", "-m", "m"][..], &["-m", "m", "a.jsonl", "b.jsonl"], &["-d", "a.jsonl", "b.jsonl", "-m", "m"]]
            {
                assert_eq!(given(&[&[command], words].concat()), wanted, "{words:?}");
            }
        }
        let wanted = given(&["inference", "--model", "m", "--prompt", "a prompt"]);
        assert_eq!(given(&["inference", "-m", "m", "a prompt"]), wanted);
        let (_, command) = read(&["p.toml", "-m", "m", "-d", "a.jsonl"]).unwrap().into_parts();
        assert!(matches!(&command, Command::Run(_)), "{command:?}");
    }

    #[test]
    fn data_by_argument_and_by_flag_is_refused() {
        for words in [&["check", "a.jsonl", "-m", "m", "-d", "b.jsonl"][..], &["inference", "-m", "m", "--prompt", "a", "--", "b"]] {
            let message = read(words).unwrap_err().to_string();
            assert!(message.contains("cannot be used with"), "{message}");
        }
    }

    #[test]
    fn a_misspelled_command_gets_a_suggestion() {
        for (words, wrong, right) in [
            (&["stauts", "s1"][..], "stauts", "status"),
            (&["stauts"], "stauts", "status"),
            (&["comprae", "a", "b"], "comprae", "compare"),
            (&["train", "data.json", "-m", "m"], "train", "did you mean the command finetune-lora or finetune-full?"),
            (&["zzz"], "zzz", "pyrust-nn --help lists them"),
            (&["fintune_lora", "x", "--lr", "3"], "fintune_lora", "did you mean the command finetune-lora?"),
            (&["--offline", "stauts", "s1"], "stauts", "status"),
            (&["sessions", "list"], "list", "did you mean `pyrust-nn sessions`?"),
            (&["sessions", "delete", "s1"], "delete", "did you mean `pyrust-nn sessions rm` or `pyrust-nn sessions gc`?"),
            (&["cache", "ls"], "ls", "did you mean `pyrust-nn cache list`?"),
            (&["sessions", "--filter", "foo=1"], "foo", "the columns are session, state, model, task, loss, size, age"),
            (&["sessions", "--filter", "stat=1"], "stat", "did you mean state?"),
            (&["sessions", "rm", "--state", "failed"], "failed", "failure"),
        ] {
            let message = read(words).unwrap_err().to_string();
            assert!(message.contains(wrong) && message.contains(right) && !message.contains("invalid variant"), "{message}");
        }
    }

    #[test]
    fn the_input_of_a_command_needs_no_flag() {
        let given = |words: &[&str]| match read(words).unwrap().into_parts() {
            (global, Command::Task(task)) => format!("{:?}", task.resolve(&global).unwrap()),
            (_, other) => format!("{other:?}"),
        };
        for (command, flag) in [
            ("merge", "-m"),
            ("flatten", "-m"),
            ("quantize-model", "-m"),
            ("convert-model-to-gguf", "-m"),
            ("convert-lora-to-gguf", "--adapter"),
            ("chat", "-m"),
            ("serve", "-m"),
        ] {
            assert_eq!(given(&[command, "s1/merge"]), given(&[command, flag, "s1/merge"]), "{command}");
            assert!(read(&[command, "a", flag, "b"]).is_err(), "{command} by both");
        }
        assert_eq!(given(&["serve", "a.gguf", "b=c.gguf"]), given(&["serve", "-m", "a.gguf", "-m", "b=c.gguf"]));
        assert!(help("merge", 140).contains("Usage: pyrust-nn merge <MODEL> [OPTIONS]"));
    }
}
