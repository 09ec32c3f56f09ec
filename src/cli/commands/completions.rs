//! `completions`: the completion script of a shell.
//!
//! The script knows commands, flags and their values, but no sessions: only clap_complete's dynamic engine could offer these, and it is behind
//! the feature `unstable-dynamic`, whose protocol between script and program may change with any version.

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
        let mut command = with_values(command, "");
        clap_complete::generate(self.shell, &mut command, "pyrust-nn", &mut script);
        let mut script = String::from_utf8_lossy(&script).into_owned();
        if self.shell == Shell::Bash {
            script = for_bash(&script);
        }
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
