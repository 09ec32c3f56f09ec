//! How this process calls Pyrust-NN's command line again: for a session that is resumed, and for a server that goes on alone.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::base::error::{Error, Kind};

/// The words before those of a command.
#[derive(Clone, Debug)]
pub(crate) struct Program(Option<Vec<String>>);

impl Program {
    /// `given`, or as this process was called: the binary itself, or Python with the script `pyrust-nn`.
    pub(crate) fn of(given: Option<Vec<String>>) -> Program {
        Program(given.or_else(of_this_process))
    }

    /// Starts a command in a process group of its own, so that it goes on when the board ends and no Ctrl-C for the board reaches it. Its output
    /// is that of its session's log.
    ///
    /// # Errors
    /// Kind `setup` if it is not known how to call the command line.
    pub(crate) fn start(&self, words: &[&str]) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let mut command = self.command()?;
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        // Whoever starts a process must wait for it, or its entry stays in the system's table.
        std::thread::Builder::new().name("resumed".into()).spawn(move || child.wait())?;
        Ok(())
    }

    /// The command line, to which the words of a command are added.
    ///
    /// # Errors
    /// Kind `setup` if it is not known how to call it.
    pub(crate) fn command(&self) -> Result<Command> {
        let unknown = || Error::new(Kind::Setup, "this program has no command line of Pyrust-NN; use the command `pyrust-nn` instead");
        let (program, first) = self.0.as_ref().and_then(|all| all.split_first()).ok_or_else(unknown)?;
        let mut command = Command::new(program);
        command.args(first);
        Ok(command)
    }
}

fn of_this_process() -> Option<Vec<String>> {
    let is_ours = |path: &str| Path::new(path).file_name().is_some_and(|name| name == "pyrust-nn");
    let own = std::env::current_exe().ok()?.to_string_lossy().into_owned();
    if is_ours(&own) {
        return Some(vec![own]);
    }
    let line = fs::read("/proc/self/cmdline").ok()?;
    let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let (interpreter, script) = (words.next()?, words.next()?);
    is_ours(&script).then(|| vec![interpreter, script])
}
