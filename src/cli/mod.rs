//! The command line: one command a task, made from its row, and the few that are no tasks.

mod check;
mod display;
mod doctor;
mod print;
mod tree;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ArgMatches;
use clap::error::ErrorKind;
use serde_json::{Map, Value, json};

use crate::dataset::QUERIES;
use crate::embed::{Python3, called_user_script, finish, host_prefix, use_environment};
use crate::environment::Environment;
use crate::error::{self, Error};
use crate::interrupt::Handlers;
use crate::params::{Door, Param, resolve};
use crate::pipeline::{self, Pipeline, Plan};
use crate::run::{self, Outcome, Request};
use crate::session::runs_dir;
use crate::task::{TASKS, Task};
use crate::{embedded, environment, files, resume, status};

pub use display::set_console;
pub(crate) use display::show_by_default;

/// The whole life of a process that is this command line and nothing else. Neither Python nor a library is asked to clean up
/// behind itself, unless a user's own script ran: torch's take a tenth of a second to undo what ends with the process.
pub fn process(argv: Vec<OsString>) -> ! {
    let code = match argv.into_iter().map(OsString::into_string).collect() {
        Ok(argv) => main(argv),
        Err(other) => {
            print::error(&Error::new(error::Kind::Usage, format!("the argument {} is not UTF-8; rename the file", other.display())));
            error::Kind::Usage.exit_code()
        }
    };
    if called_user_script() {
        // SAFETY: stdout has had its answer, and is flushed; what is printed from here on goes to stderr.
        unsafe { libc::dup2(2, 1) };
        finish();
    }
    // SAFETY: a library may have printed by C's means; then the process ends, whatever its other threads do.
    unsafe {
        libc::fflush(std::ptr::null_mut());
        libc::_exit(i32::from(code))
    }
}

/// Runs a command line (its first word is the program's name) and gives the exit code.
pub fn main(argv: Vec<String>) -> u8 {
    let code = command(argv);
    print::end().map_or(code, |cause| {
        print::error(&cause);
        code.max(cause.kind.exit_code())
    })
}

fn command(argv: Vec<String>) -> u8 {
    let argv = with_default_command(argv);
    let matches = match tree::command().try_get_matches_from(&argv) {
        Ok(matches) => matches,
        Err(error) => return usage_error(&argv, &error),
    };
    let options = Options::of(&matches);
    display::begin(&options, !["run", "resume"].contains(&matches.subcommand_name().unwrap_or_default()));
    if options.json {
        print::keep_stdout();
    }
    let result = dispatch(&matches, &options);
    display::end();
    match result {
        Ok(code) => code,
        Err(error) => {
            let error = Error::of(&error);
            if options.json {
                print::json(&json!({"error": error}));
            }
            print::error(&error);
            error.kind.exit_code()
        }
    }
}

/// What every command takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub runs_dir: Option<PathBuf>,
    pub python_env: Option<PathBuf>,
    pub json: bool,
    pub offline: bool,
    pub quiet: bool,
    pub verbose: bool,
    pub no_setup: bool,
}

impl Options {
    fn of(matches: &ArgMatches) -> Options {
        let path = |name: &str| matches.get_one::<String>(name).map(PathBuf::from);
        Options {
            runs_dir: path("runs_dir"),
            python_env: path("python_env"),
            json: matches.get_flag("json"),
            offline: matches.get_flag("offline"),
            quiet: matches.get_flag("quiet"),
            verbose: matches.get_flag("verbose"),
            no_setup: matches.get_flag("no_setup"),
        }
    }

    /// The global ones that are parameters of a step.
    fn given(&self) -> Map<String, Value> {
        let mut given = Map::new();
        if let Some(runs) = &self.runs_dir {
            given.insert("runs_dir".into(), runs.to_string_lossy().into());
        }
        if self.offline {
            given.insert("offline".into(), true.into());
        }
        given
    }
}

/// Without a command, `run` is meant.
fn with_default_command(mut argv: Vec<String>) -> Vec<String> {
    let commands: Vec<String> =
        tree::command().get_subcommands().map(|command| command.get_name().to_string()).chain(["help".into()]).collect();
    let named = argv.iter().skip(1).any(|word| commands.contains(word));
    let asks = argv.get(1).is_some_and(|word| ["--help", "-h", "--version", "-V"].contains(&word.as_str()));
    // A word that is no flag's value and no file of steps is a command misspelt, which clap answers.
    let switches = ["--json", "--offline", "--quiet", "--verbose", "--no-setup", "--overwrite", "--init"];
    let mut values = 0;
    let misspelt = argv.iter().skip(1).any(|word| {
        if word.starts_with('-') {
            values = match word.as_str() {
                "--dataset-path" => usize::MAX,
                flag => usize::from(flag.starts_with("--") && !flag.contains('=') && !switches.contains(&flag)),
            };
            return false;
        }
        let value = values > 0;
        values = values.saturating_sub(1);
        !value && !word.ends_with(".toml")
    });
    if !named && !asks && !misspelt {
        argv.insert(1, "run".into());
    }
    argv
}

fn dispatch(matches: &ArgMatches, options: &Options) -> Result<u8> {
    use_environment(Python3 { python_env: options.python_env.clone(), setup: !options.no_setup, offline: options.offline });
    let Some((name, own)) = matches.subcommand() else { return Err(error::usage("no command")) };
    let text = |key: &str| own.get_one::<String>(key).cloned();
    let runs = runs_dir(options.runs_dir.as_deref());
    match name {
        "run" => run_pipeline(own, options),
        "resume" => {
            let session = text("session").unwrap_or_default();
            run_plan(resume::plan(options.runs_dir.as_deref(), &session, text("step").as_deref(), Door::Cli)?, options)
        }
        "status" => {
            let session = text("session").unwrap_or_default();
            let lines = own.get_one::<usize>("lines").copied();
            print::status(&status::session_state(&runs, &session)?, &status::read_log(&runs, &session, lines)?, options.json);
            Ok(0)
        }
        "sessions" => {
            print::sessions(&status::list_sessions(Some(&runs))?, &runs, options.json);
            Ok(0)
        }
        "setup" => {
            let made = match host_prefix() {
                Some(prefix) => the_host_s(environment::of_host(prefix))?,
                None if options.no_setup => environment::find(options.python_env.as_deref())?,
                None => environment::find_or_make(options.python_env.as_deref(), options.offline)?,
            };
            if options.json {
                print::json(&json!({"python_env": made.folder, "from": made.from}));
            } else {
                print::line(&format!("Python environment: {} ({})", made.folder.display(), made.from));
            }
            Ok(0)
        }
        "doctor" => Ok(doctor::run(options)),
        command if QUERIES.iter().any(|query| query.command == command) => ask(command, own, options),
        command => {
            let task = TASKS.iter().find(|task| task.command() == command).ok_or_else(|| error::usage(format!("no command {command}")))?;
            let mut given = given_of(task, own);
            given.extend(options.given());
            let request = Request::new(task, text("session"), given, Door::Cli);
            Ok(report(&run::step(request), options))
        }
    }
}

/// A question about a data set.
fn ask(command: &str, own: &ArgMatches, options: &Options) -> Result<u8> {
    let query = QUERIES.iter().find(|query| query.command == command).ok_or_else(|| error::usage(format!("no command {command}")))?;
    let mut given = texts_of(tree::query_params(query), own);
    given.extend(options.given());
    let _signals = Handlers::note_signals();
    let answer = (query.ask)(given, Door::Cli, &mut |_, _| Ok(()))?;
    // A report that finds the data wrong ends as any other wrong input.
    let code = if answer["ok"] == Value::Bool(false) { error::Kind::Input.exit_code() } else { 0 };
    if options.json {
        print::json(&answer);
    } else if command == "check" {
        check::report(&serde_json::from_value(answer)?, options.verbose);
    } else {
        print::answer(&answer);
    }
    Ok(code)
}

/// Where Python runs us, its own installer installs.
fn the_host_s(host: Environment) -> Result<Environment> {
    let lacks: Vec<String> = host.lacks().iter().map(ToString::to_string).collect();
    if lacks.is_empty() {
        return Ok(host);
    }
    let python = host.python();
    Err(error::setup(format!(
        "{} lacks {}; `{} -m pip install pyrust-nn` installs what it needs",
        host.folder.display(),
        lacks.join(", "),
        python.display()
    )))
}

/// What stood on the command line, by parameter.
fn given_of(task: &Task, own: &ArgMatches) -> Map<String, Value> {
    texts_of(tree::own_params(task), own)
}

fn texts_of(params: impl Iterator<Item = &'static Param>, own: &ArgMatches) -> Map<String, Value> {
    let mut given = Map::new();
    for param in params {
        if let Some(texts) = own.get_many::<String>(param.name) {
            given.insert(param.name.into(), param.kind.read_text(&texts.cloned().collect::<Vec<_>>()));
        }
    }
    given
}

fn report(outcome: &Outcome, options: &Options) -> u8 {
    display::end();
    if options.json {
        print::json(&serde_json::to_value(&outcome.summary).unwrap_or_default());
    } else if outcome.error.is_none() {
        print::summary(&outcome.summary);
    }
    outcome.summary.error.as_ref().map_or(0, |error| {
        print::error(error);
        error.kind.exit_code()
    })
}

fn run_pipeline(own: &ArgMatches, options: &Options) -> Result<u8> {
    if own.get_flag("init") {
        return write_sample();
    }
    let file = own.get_one::<String>("file").map_or(pipeline::FILE, String::as_str);
    let mut overrides = options.given();
    overrides.extend(texts_of(tree::pipeline_params(), own));
    let plan = Pipeline::read(Path::new(file))?.with(overrides, own.get_one::<String>("session").cloned(), Door::Cli)?;
    // A wrong parameter in the last step should not cost the steps before it.
    for request in &plan.steps {
        let name = request.step();
        resolve(request.task.name, request.task.all_params(), request.given.clone(), request.door)
            .map_err(|cause| error::usage(format!("{file}, step {name}: {cause}")))?;
    }
    run_plan(plan, options)
}

/// Runs steps in order, with a heading each and a table at the end.
fn run_plan(plan: Plan, options: &Options) -> Result<u8> {
    let session = plan.session.clone();
    let total = plan.steps.len();
    let names: Vec<String> = plan.steps.iter().map(|one| one.step().to_string()).collect();
    let mut number = 0;
    let outcomes = plan.run(|_| {
        number += 1;
        display::heading(&format!("[{number}/{total}] {} (session {session})", names[number - 1]));
    })?;
    display::end();
    if options.json {
        let summaries: Vec<_> = outcomes.iter().map(|one| &one.summary).collect();
        print::json(&json!({"session": session, "steps": summaries}));
    } else {
        print::pipeline(&session, &runs_dir(options.runs_dir.as_deref()), &outcomes, &names);
    }
    Ok(outcomes.iter().find_map(|one| one.summary.error.as_ref()).map_or(0, |error| {
        print::error(error);
        error.kind.exit_code()
    }))
}

/// The sample pipeline and its conversations, into the working directory.
fn write_sample() -> Result<u8> {
    for name in [pipeline::FILE, "data.json"] {
        let path = Path::new(name);
        if path.exists() {
            return Err(error::usage(format!("{name} is already here; move it away, or go to an empty folder")));
        }
    }
    for name in [pipeline::FILE, "data.json"] {
        files::write_whole(Path::new(name), embedded::text(name).unwrap_or_default().as_bytes())?;
    }
    print::line(&format!("wrote {} and data.json; `pyrust-nn run` runs them", pipeline::FILE));
    Ok(0)
}

/// Help and version are no errors; a wrong flag of a task leaves a Failure summary where a session was named.
fn usage_error(argv: &[String], error: &clap::Error) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
        drop(error.print());
        return u8::from(error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) * 2;
    }
    let json = argv.iter().any(|word| word == "--json");
    let message = error.to_string();
    let message = message.trim_start_matches("error: ").trim();
    let failure = Error::new(error::Kind::Usage, message);
    let summary = tree::command().ignore_errors(true).try_get_matches_from(argv).ok().and_then(|matches| {
        let (name, own) = matches.subcommand()?;
        let task = TASKS.iter().find(|task| task.command() == name)?;
        let session = own.get_one::<String>("session")?.clone();
        let mut given = given_of(task, own);
        given.extend(Options::of(&matches).given());
        Some(run::refused(&Request::new(task, Some(session), given, Door::Cli), failure.clone()))
    });
    if json {
        print::json(&summary.map_or_else(|| json!({"error": failure}), |summary| serde_json::to_value(summary).unwrap_or_default()));
    }
    drop(error.print());
    2
}
