//! The process of the command line: arguments, command, output, exit code.
//!
//! A usage error of a task is also noted in the log of the session, if it was named and exists.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap::FromArgMatches;
use clap::error::ErrorKind;
use serde_json::{Map, json};

use crate::base::error::Error;
use crate::base::terminal::{Terminal, allow_capture};
use crate::base::{error, secrets, signals};
use crate::cli::args::{Command, CommandLine, command_line};
use crate::cli::commands::{DoctorArgs, SetupArgs, TaskArgs};
use crate::cli::global::GlobalArgs;
use crate::cli::text::Style;
use crate::cli::{console, output};
use crate::python::{
    EnvironmentChoice, called_user_script, deny_network, finish, is_command_line, is_launched, is_worker, say_to_workers, torchrun_place,
    use_environment, work,
};
use crate::session::process::running;
use crate::session::runs_dir;
use crate::step::refusal;

/// Runs the command line and ends the process. Python and libraries do not clean up at the end, unless a user's script ran: torch's
/// cleanup takes a tenth of a second and has no effect beyond the process.
pub fn process(argv: Vec<OsString>) -> ! {
    signals::ignore_file_size_signal();
    is_command_line();
    // SAFETY: the handler only reads, writes to stderr and ends the process.
    unsafe { libc::atexit(ended_by_a_library) };
    let code = match argv.into_iter().map(OsString::into_string).collect() {
        Ok(argv) => run_command_line(argv),
        Err(other) => {
            output::error(&Error::new(error::Kind::Usage, format!("the argument {} is not UTF-8; rename the file", other.display())));
            error::Kind::Usage.exit_code()
        }
    };
    if called_user_script() {
        // SAFETY: the result is written and stdout is flushed. Later output goes to stderr.
        unsafe { libc::dup2(2, 1) };
        finish();
    }
    // SAFETY: flushes C's stdio buffers, in which a library may have left output. Then the process ends, with all of its threads.
    unsafe {
        libc::fflush(std::ptr::null_mut());
        libc::_exit(i32::from(code))
    }
}

/// Called when something other than [`process`] ends the process, such as C's `exit(0)` in a library. A step that has not ended has not
/// succeeded. (`os._exit` is caught in `_runtime/host.py`.)
extern "C" fn ended_by_a_library() {
    if let Some(step) = running() {
        output::error(&Error::new(error::Kind::Script, format!("{step} has not ended: the script or a library called exit()")));
        // SAFETY: ends the process without further handlers.
        unsafe { libc::_exit(i32::from(error::Kind::Script.exit_code())) };
    }
}

/// Runs a command line, whose first word is the program's name, and returns the exit code.
pub(crate) fn run_command_line(argv: Vec<String>) -> u8 {
    let _secrets = secrets::register(&Map::new());
    allow_capture(true);
    let code = match CommandLine::parse(&argv) {
        Ok(line) => {
            let (global, command) = line.into_parts();
            run(command, &global)
        }
        Err(error) => usage_error(&argv, &error),
    };
    allow_capture(false);
    output::end().map_or(code, |cause| {
        output::error(&cause);
        code.max(cause.exit_code())
    })
}

fn run(command: Command, global: &GlobalArgs) -> u8 {
    let multiple_steps = matches!(command, Command::Run(_) | Command::Resume(_) | Command::Reproduce(_));
    let environment = EnvironmentChoice { python_env: global.python_env.clone(), setup: !global.no_setup, offline: global.offline };
    use_environment(environment);
    // What rank 0 has denied itself, it has denied its workers.
    if global.offline && !is_launched() {
        deny_network();
    }
    if is_worker() {
        return work().unwrap_or_else(|error| {
            let error = Error::of(&error);
            output::error(&error);
            error.exit_code()
        });
    }
    console::begin(global, !multiple_steps);
    if global.json {
        output::reserve_stdout();
    }
    let result = dispatch(command, global);
    console::end();
    let code = result.unwrap_or_else(|error| {
        let error = Error::of(&error);
        if global.json {
            output::json(&json!({"error": error}));
        }
        output::error(&error);
        error.exit_code()
    });
    if torchrun_place().is_some() {
        // If it fails, torchrun ends the workers.
        drop(say_to_workers(&json!({"end": code})));
    }
    code
}

fn dispatch(command: Command, global: &GlobalArgs) -> Result<u8> {
    match command {
        Command::Run(run) => run.run(global),
        Command::Task(task) => Ok(task.run(global)),
        Command::Chat(chat) => chat.run(global),
        Command::Serve(serve) => serve.run(global),
        Command::Resume(resume) => resume.run(global),
        Command::Reproduce(reproduce) => reproduce.run(global),
        Command::Status(status) => status.run(global),
        Command::Watch(watch) => watch.run(global),
        Command::Report(report) => report.run(global),
        Command::Compare(compare) => compare.run(global),
        Command::Board(board) => board.run(global),
        Command::Dataset(command) => command.run(global),
        Command::Sessions(args) => args.run(global),
        Command::Export(export) => export.run(global),
        Command::ExportMetrics(export) => export.run(global),
        Command::Import(import) => import.run(global),
        Command::Cache(cache) => cache.run(global),
        Command::Setup(_) => SetupArgs::run(global),
        Command::Doctor(_) => Ok(DoctorArgs::run(global)),
        Command::Init(init) => init.run(global),
        Command::Completions(completions) => Ok(completions.run(command_line())),
        Command::Man(man) => man.run(command_line()),
    }
}

/// Prints help, the version or a usage error. With --json a usage error of a task with a session is printed as its summary.
fn usage_error(argv: &[String], error: &clap::Error) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        output::line(rendered(error, Style::of_stdout()).trim_end());
        return 0;
    }
    let message = error.to_string();
    let failure = Error::new(error::Kind::Usage, message.trim_start_matches("error: ").trim());
    let failure = secrets::redact_error(failure);
    let partial = command_line().ignore_errors(true).try_get_matches_from(argv).ok();
    // Parsing stops at the first wrong word, so these are read from the words.
    let value = |flag: &str| {
        argv.iter().enumerate().find_map(|(i, word)| match word.strip_prefix(flag)? {
            "" => argv.get(i + 1).map(String::as_str),
            rest => rest.strip_prefix('='),
        })
    };
    if let Some(session) = value("--session") {
        refusal::note(&runs_dir(value("--runs-dir").map(Path::new)), session, "command line", &failure.clone().into());
    }
    let summary = partial.and_then(|matches| {
        let task = TaskArgs::from_arg_matches(&matches).ok()?;
        let (_, own) = matches.subcommand()?;
        task.refuse(&GlobalArgs::from_arg_matches(own).ok()?, failure.clone())
    });
    if argv.iter().any(|word| word == "--json") {
        output::json(&summary.map_or_else(|| json!({"error": failure}), |summary| serde_json::to_value(summary).unwrap_or_default()));
    }
    print_usage_error(error);
    error::Kind::Usage.exit_code()
}

/// Prints clap's error.
fn print_usage_error(error: &clap::Error) {
    let text = output::at_stderr_s_width(rendered(error, Style::of_stderr()).trim_end());
    drop(writeln!(Terminal::Stderr, "{text}"));
}

/// What clap says, with its colours where they are shown. clap breaks the lines of options alone, not those of usage and examples.
fn rendered(error: &clap::Error, style: Style) -> String {
    let text = error.render();
    if style.colors { text.ansi().to_string() } else { text.to_string() }
}
