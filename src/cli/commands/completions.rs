//! `completions`: the completion script of a shell.
//!
//! The script knows commands, flags and their values, but no sessions: only clap_complete's dynamic engine could offer these, and it is behind
//! the feature `unstable-dynamic`, whose protocol between script and program may change with any version.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::output;

/// Print the completion script of a shell
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    /// `command`: the whole command line.
    pub(crate) fn run(self, mut command: Command) -> u8 {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "pyrust-nn", &mut script);
        let mut script = String::from_utf8_lossy(&script).into_owned();
        // clap_complete 4.6.11 writes the dash of the program's name in two ways, so bash would not find a command's flags.
        if self.shell == Shell::Bash {
            script = script.replace("pyrust__subcmd__nn__subcmd__", "pyrust__nn__subcmd__");
        }
        output::text(&script);
        0
    }
}
