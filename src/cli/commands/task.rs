//! Runs a task as a command: one step of a session.

use std::path::Path;

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use serde_json::{Map, Value};

use crate::base::error::Error;
use crate::cli::commands::dry_run::step_text;
use crate::cli::examples::examples;
use crate::cli::global::GlobalArgs;
use crate::cli::param_args::{args, command_params, given, session, usage};
use crate::cli::results::{answers, cut_off, next_command, step_lines};
use crate::cli::{console, output};
use crate::params::interface::Interface;
use crate::params::task::Task;
use crate::session::artifact::TINY;
use crate::session::{Status, Summary, runs_dir};
use crate::step::{Request, run_step};
use crate::tasks::TASKS;

/// A task and the given parameters.
#[derive(Debug)]
pub(crate) struct TaskArgs {
    task: &'static Task,
    session: Option<String>,
    given: Map<String, Value>,
}

impl TaskArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> u8 {
        let request = self.request(global);
        let hint = prompt_for_model(&request);
        let mut outcome = run_step(request);
        console::end();
        if let (Some(hint), Some(error)) = (hint, outcome.summary.error.as_mut()) {
            error.message = format!("{}; {hint}", error.message.trim_end_matches('.'));
        }
        if global.json {
            output::json(&serde_json::to_value(&outcome.summary).unwrap_or_default());
        } else if outcome.error.is_none() {
            print_summary(&outcome.summary, global);
        }
        output::exit_code(outcome.summary.error.as_ref())
    }

    /// Returns the Failure summary of a task whose command line is invalid, if a session was given.
    pub(crate) fn refuse(self, global: &GlobalArgs, error: Error) -> Option<Summary> {
        self.session.as_ref()?;
        Some(Summary { status: Status::Failure, error: Some(error), ..self.request(global).new_summary() })
    }

    /// The parameters as the step would use them.
    #[cfg(test)]
    pub(crate) fn resolve(self, global: &GlobalArgs) -> anyhow::Result<Map<String, Value>> {
        let request = self.request(global);
        crate::params::validate::resolve(request.task.name, request.task.all_params(), request.given, request.interface)
    }

    fn request(self, global: &GlobalArgs) -> Request {
        let mut given = self.given;
        given.extend(global.given());
        Request::new(self.task, self.session, given, Interface::Cli)
    }
}

impl Subcommand for TaskArgs {
    fn augment_subcommands(command: Command) -> Command {
        command.subcommands(TASKS.iter().map(|task| task_command(task)))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        TASKS.iter().any(|task| task.command() == name)
    }
}

impl FromArgMatches for TaskArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<TaskArgs, clap::Error> {
        let found = matches.subcommand().and_then(|(name, own)| Some((TASKS.iter().find(|task| task.command() == name)?, own)));
        let (task, matches) = found.ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;
        let session = matches.get_one::<String>("session").cloned();
        Ok(TaskArgs { task, session, given: given(command_params(task.all_params()), matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = TaskArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

fn task_command(task: &'static Task) -> Command {
    // The name as in a pipeline is known too.
    let command = Command::new(task.command());
    let command = if task.command() == task.name { command } else { command.alias(task.name) };
    let described = command.about(task.about).override_usage(usage(&task.command(), task.all_params()));
    described.after_help(examples(&task.examples)).args(args(task.all_params())).arg(session())
}

/// What to add to the error that there is no model, if the first of several prompts is one: `inference MODEL PROMPT`.
fn prompt_for_model(request: &Request) -> Option<String> {
    let prompts = request.given.get("prompt").filter(|_| !request.given.contains_key("model"))?.as_array()?;
    let first = prompts.first()?.as_str().filter(|text| !text.contains(char::is_whitespace))?;
    let is_named = Path::new(first).exists() || request.runs().join(first).exists() || first == TINY || first.matches('/').count() == 1;
    is_named.then(|| format!("did you mean `-m {first}`?"))
}

/// Prints the summary of a step that succeeded, or the parameters of a dry run.
fn print_summary(summary: &Summary, global: &GlobalArgs) {
    if summary.params.get("dry_run") == Some(&Value::Bool(true)) {
        return output::line(&step_text(summary, global.verbose));
    }
    let answers = answers(summary);
    // Those to a file of prompts are for a file too.
    let asked_here = summary.params.get("prompts_file").is_none_or(Value::is_null);
    if global.quiet && asked_here && !answers.is_empty() {
        return output::verbatim(&answers.join("\n\n"));
    }
    if let Some(text) = cut_off(summary) {
        console::note(&text);
    }
    let runs = runs_dir(global.runs_dir.as_deref());
    output::line(&step_lines(summary, &runs).join("\n"));
    if let Some(command) = next_command(summary, &runs, global.runs_dir.is_some()) {
        output::command("next: ", &command);
    }
}
