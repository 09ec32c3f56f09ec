//! `man`: manual pages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_mangen::Man;

use crate::base::files;
use crate::cli::output;

/// Print the manual page of the program, or write the pages of all commands to a folder
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Folder for the pages: pyrust-nn.1 and one for each command
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    dir: Option<PathBuf>,
}

impl ManArgs {
    /// `command`: the whole command line.
    pub(crate) fn run(self, mut command: Command) -> Result<u8> {
        command.build();
        let Some(folder) = self.dir else {
            output::text(&page(&command)?);
            return Ok(0);
        };
        files::create_folders(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        let commands = command.get_subcommands().filter(|one| one.get_name() != "help");
        let own = commands.map(|one| (format!("pyrust-nn-{}", one.get_name()), one.clone()));
        let pages: Vec<(String, Command)> = std::iter::once(("pyrust-nn".to_string(), command.clone())).chain(own).collect();
        let count = pages.len();
        for (name, command) in pages {
            // The names of pages have dashes, like those that `git help` opens.
            let command = if name == "pyrust-nn" { command } else { command.name(name.clone()).display_name(name.clone()) };
            files::write_whole(&folder.join(format!("{name}.1")), page(&command)?.as_bytes())?;
        }
        output::line(&format!("wrote {count} pages to {}", folder.display()));
        Ok(0)
    }
}

fn page(command: &Command) -> Result<String> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
