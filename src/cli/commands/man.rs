//! `man`: manual pages.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Command};
use clap_mangen::Man;

use crate::base::error::did_you_mean;
use crate::base::{error, files};
use crate::cli::output;

/// Print the manual page of the program or of a command, or write the pages of all commands to a folder
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Command whose page to print
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Option<String>,
    /// Folder for the pages: pyrust-nn.1 and one for each command
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    dir: Option<PathBuf>,
}

impl ManArgs {
    /// `command`: the whole command line.
    pub(crate) fn run(self, mut command: Command) -> Result<u8> {
        command.build();
        let Some(folder) = self.dir else {
            let shown = self.command.map_or(Ok(command.clone()), |name| of_command(&command, &name))?;
            output::text(&page(&shown)?);
            return Ok(0);
        };
        files::create_folders(&folder)?;
        let commands = command.get_subcommands().filter(|one| one.get_name() != "help");
        let pages: Vec<Command> = std::iter::once(command.clone()).chain(commands.map(with_dashes)).collect();
        let count = pages.len();
        for command in pages {
            files::write_whole(&folder.join(format!("{}.1", command.get_name())), page(&command)?.as_bytes())?;
        }
        output::line(&format!("wrote {count} pages to {}", folder.display()));
        Ok(0)
    }
}

/// The command of this name.
fn of_command(root: &Command, name: &str) -> Result<Command> {
    let unknown = || {
        let names = root.get_subcommands().map(Command::get_name);
        let near = did_you_mean(name, names).map_or("; pyrust-nn --help lists them".to_string(), |near| format!("; did you mean {near}?"));
        error::usage(format!("there is no command {name}{near}"))
    };
    root.find_subcommand(name).map(with_dashes).ok_or_else(unknown)
}

/// A command whose name has dashes, like the pages that `git help` opens.
fn with_dashes(command: &Command) -> Command {
    let name = format!("pyrust-nn-{}", command.get_name());
    command.clone().name(name.clone()).display_name(name)
}

fn page(command: &Command) -> Result<String> {
    let mut text = Vec::new();
    // A command has no version of its own.
    Man::new(command.clone().version(env!("CARGO_PKG_VERSION"))).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
