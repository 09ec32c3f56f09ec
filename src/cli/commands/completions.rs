//! `completions`: the completion script of a shell.
//!
//! clap_complete writes the script from commands, flags and their values. It knows no sessions: its dynamic engine could offer these, but is
//! behind the feature `unstable-dynamic`, whose protocol between script and program may change with any version. So a mark stands where a
//! session is named, which becomes the call of a shell function that lists the folder of the sessions.

use std::fmt::Write;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Args, Command, ValueHint};
use clap_complete::Shell;

use crate::cli::output;
use crate::params::interface::Interface;
use crate::params::param::Param;
use crate::params::param_type::ParamType;
use crate::serve;
use crate::tasks::{DATASET_COMMANDS, TASKS};

/// Print the completion script of a shell
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    /// `command`: the whole command line.
    pub(crate) fn run(self, command: Command) -> u8 {
        let mut script = Vec::new();
        let marked = matches!(self.shell, Shell::Bash | Shell::Zsh | Shell::Fish);
        let mut command = with_values(command, "");
        if marked {
            command = with_sessions(command);
        }
        clap_complete::generate(self.shell, &mut command, "pyrust-nn", &mut script);
        let mut script = String::from_utf8_lossy(&script).into_owned();
        if self.shell == Shell::Bash {
            script = for_bash(&script);
        }
        if self.shell == Shell::Zsh {
            script = for_zsh(&script);
        }
        script = listing_sessions(self.shell, &script, &command);
        output::text(&script);
        0
    }
}

/// The command with what a flag's value can be. The parser itself does not know it: values are checked later, in every interface.
fn with_values(command: Command, name: &str) -> Command {
    let params = params_of(name);
    let inner = |inner: Command| {
        let name = inner.get_name().to_string();
        with_values(inner, &name)
    };
    command.mut_args(|arg| with_value(arg, &params)).mut_subcommands(inner)
}

/// The parameters of a command. `run`, also without its name, has those of all tasks.
fn params_of(command: &str) -> Vec<&'static Param> {
    let of_task =
        TASKS.iter().filter(|task| task.command() == command || ["", "run"].contains(&command)).flat_map(|task| task.all_params());
    let of_data = DATASET_COMMANDS.iter().filter(|one| one.name == command).flat_map(|one| one.all_params());
    let of_serve = serve::all_params().filter(|_| command == serve::NAME);
    let of_chat = TASKS.iter().filter(|task| task.name == "inference" && command == "chat").flat_map(|task| task.all_params());
    of_task.chain(of_data).chain(of_serve).chain(of_chat).collect()
}

fn with_value(arg: Arg, params: &[&Param]) -> Arg {
    let value_type = params.iter().find(|param| arg.get_id() == param.name).map(|param| param.value_type);
    match value_type {
        Some(
            ParamType::Choice(names) | ParamType::ChoiceList(names) | ParamType::Caseless(names) | ParamType::CaselessList { names, .. },
        ) => arg.value_parser(PossibleValuesParser::new(names)).value_hint(ValueHint::Unknown),
        Some(ParamType::Device) => arg.value_parser(PossibleValuesParser::new(["auto", "cpu", "cuda"])).value_hint(ValueHint::Unknown),
        // The word after `--overwrite` is not its value.
        Some(ParamType::Bool) => {
            arg.num_args(0).require_equals(false).default_missing_values(Vec::<&str>::new()).action(ArgAction::SetTrue)
        }
        _ if arg.get_value_hint() == ValueHint::Unknown && arg.get_action().takes_values() && arg.get_possible_values().is_empty() => {
            arg.value_hint(ValueHint::Other)
        }
        _ => arg,
    }
}

/// What stands for the names of the sessions until the script is complete.
const SESSIONS: &str = "PYRUST_NN_SESSION_NAMES";

/// Whether an argument's value is a session.
fn names_session(arg: &Arg) -> bool {
    ["session", "sessions"].contains(&arg.get_id().as_str())
        || arg.get_value_names().is_some_and(|names| names.first().is_some_and(|name| name.as_str() == "SESSION"))
}

/// The command with a mark wherever a session is named.
fn with_sessions(command: Command) -> Command {
    let marked = |arg: Arg| {
        if names_session(&arg) { arg.value_parser(PossibleValuesParser::new([SESSIONS])).value_hint(ValueHint::Unknown) } else { arg }
    };
    command.mut_args(marked).mut_subcommands(with_sessions)
}

/// The script with a function that lists the sessions, in place of the marks.
fn listing_sessions(shell: Shell, script: &str, command: &Command) -> String {
    // A session is a folder with session.json. The loop needs no program.
    let posix = r#"_pyrust_nn_sessions() {
    local file folder
    for file in "${PYRUST_NN_RUNS:-runs}"/*/session.json; do
        [[ -e $file ]] || continue
        folder=${file%/session.json}
        printf '%s\n' "${folder##*/}"
    done
}
"#;
    match shell {
        Shell::Bash => format!("{posix}\n{}", script.replace(SESSIONS, "$(_pyrust_nn_sessions)")),
        Shell::Zsh => {
            let function = posix.replace("*/session.json; do", "*/session.json(N); do");
            let listed = script.replace(&format!("({SESSIONS})"), "($(_pyrust_nn_sessions))");
            // `#compdef` must be the first line.
            let (first, rest) = listed.split_once('\n').unwrap_or((&listed, ""));
            format!("{first}\n\n{function}\n{rest}")
        }
        Shell::Fish => {
            let function = r#"function __fish_pyrust_nn_sessions
    set -l runs runs
    test -n "$PYRUST_NN_RUNS"; and set runs $PYRUST_NN_RUNS
    for file in $runs/*/session.json
        basename (dirname $file)
    end
end
"#;
            let script = script.replace(&format!(r"{SESSIONS}\t''"), "(__fish_pyrust_nn_sessions)");
            format!("{function}\n{script}{}", fish_positionals(command))
        }
        _ => script.to_string(),
    }
}

/// The sessions as positional arguments, which clap_complete 4.6.11 leaves out for fish.
fn fish_positionals(command: &Command) -> String {
    let mut lines = String::new();
    for inner in command.get_subcommands() {
        let place = format!("__fish_pyrust_nn_using_subcommand {}", inner.get_name());
        let mut add = |place: &str| {
            writeln!(lines, "complete -c pyrust-nn -n \"{place}\" -f -a \"(__fish_pyrust_nn_sessions)\"").unwrap_or_default();
        };
        if inner.get_positionals().any(names_session) {
            add(&place);
        }
        for action in inner.get_subcommands().filter(|action| action.get_positionals().any(names_session)) {
            add(&format!("{place}; and __fish_seen_subcommand_from {}", action.get_name()));
        }
    }
    lines
}

/// Corrects what clap_complete 4.6.11 writes for bash.
fn for_bash(script: &str) -> String {
    let no_files = "compopt +o bashdefault +o default 2>/dev/null";
    let repeated = repeated_choices().join("|");
    script
        // It writes the dash of the program's name in two ways, so bash would not find a command's flags.
        .replace("pyrust__subcmd__nn__subcmd__", "pyrust__nn__subcmd__")
        // Where no choice and no flag matches, there are no files either.
        .replace("COMPREPLY=($(compgen -W ", &format!("{no_files}; COMPREPLY=($(compgen -W "))
        .replace("if [[ ${cur} == -* ||", &format!("[[ ${{cur}} == -* ]] && {no_files}\n            if [[ ${{cur}} == -* ||"))
        // A flag with several values: each is a choice.
        .replacen(
            "    prev=\"$3\"\n",
            &format!(
                "    prev=\"$3\"\n    for (( i = COMP_CWORD - 1; i > 0; i-- )); do\n        case \"${{COMP_WORDS[i]}}\" in\n            \
                 {repeated}) prev=\"${{COMP_WORDS[i]}}\"; break ;;\n            -*) break ;;\n        esac\n    done\n"
            ),
            1,
        )
}

/// Corrects what clap_complete 4.6.11 writes for zsh where a command has both arguments and commands of its own: it takes the second word
/// for the command, so nothing behind a command would be completed.
fn for_zsh(script: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut moved = false;
    for line in script.lines() {
        let is_positional = lines.last().is_some_and(|before| before.starts_with("'::") || before.starts_with("'*::"));
        let commands = line.strip_prefix("\":: :_").and_then(|rest| rest.strip_suffix("_commands\" \\"));
        match commands.filter(|_| is_positional) {
            Some(commands) => {
                lines.pop();
                lines.push(format!("\":: :{{_{commands}_commands; _files}}\" \\"));
                moved = true;
            }
            // The three lines below, before the next command's.
            None if moved && line.contains("$line[2]") => {
                moved = !line.trim_start().starts_with("case ");
                lines.push(line.replace("$line[2]", "$line[1]"));
            }
            None => lines.push(line.to_string()),
        }
    }
    lines.join("\n") + "\n"
}

/// The flags that take several choices.
fn repeated_choices() -> Vec<String> {
    let is_list = |param: &&Param| matches!(param.value_type, ParamType::ChoiceList(_) | ParamType::CaselessList { .. });
    let mut flags: Vec<String> = TASKS.iter().flat_map(|task| task.all_params()).filter(is_list).map(flag).collect();
    flags.sort();
    flags.dedup();
    flags
}

fn flag(param: &Param) -> String {
    Interface::Cli.spell(param.name)
}
