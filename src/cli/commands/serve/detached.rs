//! A server that goes on after its command has ended.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::base::error::{Error, Kind};
use crate::base::files;
use crate::base::own_program::Program;
use crate::base::signals;
use crate::cli::commands::serve::serving::{Serving, serving};
use crate::cli::global::GlobalArgs;
use crate::params::interface::Interface;
use crate::serve::KEY_VARIABLE;
use crate::session::runs_dir;

/// The flag of the process that goes on alone. It is not shown in the help.
pub(super) const ALONE: &str = "alone";

const POLL: Duration = Duration::from_millis(50);

/// Starts the server in a process of its own and waits until it serves, or has ended with an exit code.
pub(super) fn start(session: &str, given: &Map<String, Value>, global: &GlobalArgs) -> Result<Result<Serving, u8>> {
    let mut command = Program::of(None).command()?;
    command.arg("serve").args(flags(given)).args(["--session", session]).arg(format!("--{ALONE}"));
    if let Some(environment) = &global.python_env {
        command.arg("--python-env").arg(environment);
    }
    let switches = [("--no-setup", global.no_setup), ("--quiet", global.quiet), ("--verbose", global.verbose)];
    command.args(switches.iter().filter(|(_, on)| *on).map(|(flag, _)| flag));
    if let Some(key) = given.get("api_key").and_then(Value::as_str) {
        // Arguments would show it to other users.
        command.env(KEY_VARIABLE, key);
    }
    // The pipe ends when the process has left the terminal; nothing that it says on stderr comes later.
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: only a system call between fork and exec. A closed terminal and Ctrl-C in it do not reach a session of one's own.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    let mut child = command.spawn().context("the server's process cannot be started")?;
    let left = child.stdout.take().map(|mut output| std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink())));
    let folder = runs_dir(global.runs_dir.as_deref()).join(session);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Err(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(Kind::Internal.exit_code())));
        }
        let has_left = left.as_ref().is_none_or(JoinHandle::is_finished);
        if let Some(serving) = serving(&folder).filter(|serving| has_left && serving.pid == child.id()) {
            return Ok(Ok(serving));
        }
        if let Err(cause) = signals::check() {
            end(&mut child);
            return Err(cause);
        }
        std::thread::sleep(POLL);
    }
}

/// The parameters as flags, without the key.
fn flags(given: &Map<String, Value>) -> Vec<String> {
    let mut flags = Vec::new();
    for (name, value) in given.iter().filter(|(name, _)| *name != "api_key") {
        let flag = Interface::Cli.spell(name);
        match value {
            Value::Array(items) => flags.extend(items.iter().map(|item| format!("{flag}={}", text(item)))),
            Value::Bool(true) => flags.push(flag),
            Value::Bool(false) | Value::Null => {}
            value => flags.push(format!("{flag}={}", text(value))),
        }
    }
    flags
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToString::to_string)
}

fn end(child: &mut Child) {
    if let Ok(process) = i32::try_from(child.id()) {
        // SAFETY: sends a signal to a child that was not waited for.
        unsafe { libc::kill(process, libc::SIGTERM) };
    }
    drop(child.wait());
}

/// Gives the terminal up, or the pipe whose reader waits for its end. What comes from now on is in the session's log.
///
/// # Errors
/// Kind `io`.
pub(super) fn leave_terminal() -> Result<()> {
    let nowhere = files::open_null().context("/dev/null cannot be opened")?;
    for descriptor in 0..3 {
        // SAFETY: both descriptors are open.
        if unsafe { libc::dup2(nowhere.as_raw_fd(), descriptor) } < 0 {
            return Err(Error::new(Kind::Io, format!("the terminal cannot be left: {}", std::io::Error::last_os_error())).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_flags_are_those_that_were_given_but_for_the_key() {
        let given = json!({"model": ["a=x", "y"], "port": 0, "offline": true, "api_key": "secret", "ctx_size": null, "host": "::1"});
        let found = flags(given.as_object().unwrap());
        let mut wanted = ["--model=a=x", "--model=y", "--port=0", "--offline", "--host=::1"].map(ToString::to_string).to_vec();
        wanted.sort();
        let mut sorted = found;
        sorted.sort();
        assert_eq!(sorted, wanted);
    }
}
