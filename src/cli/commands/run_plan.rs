//! Runs steps in order, with a heading for each and a table at the end. `run` and `resume` share it.

use anyhow::Result;
use serde_json::json;

use crate::cli::global::GlobalArgs;
use crate::cli::results::{answers_to_values, next_command};
use crate::cli::table::table;
use crate::cli::{console, output};
use crate::pipeline::ExecutionPlan;
use crate::python::deny_network;
use crate::report::quality;
use crate::session::{Summary, runs_dir};
use crate::step::{Request, StepOutcome};

pub(crate) fn run_plan(plan: ExecutionPlan, global: &GlobalArgs) -> Result<u8> {
    let session = plan.session.clone();
    let names: Vec<String> = plan.steps.iter().map(|one| one.step().to_string()).collect();
    let outcomes = run_with_headings(plan, |outcome| {
        if !global.json {
            print_answers(&outcome.summary);
        }
    })?;
    Ok(show_end(&session, global, &outcomes, &names))
}

/// Shows how the steps `names` ended, and returns the exit code.
pub(super) fn show_end(session: &str, global: &GlobalArgs, outcomes: &[StepOutcome], names: &[String]) -> u8 {
    if global.json {
        let summaries: Vec<_> = outcomes.iter().map(|one| &one.summary).collect();
        output::json(&json!({"session": session, "steps": summaries}));
    } else if runs_dir(global.runs_dir.as_deref()).join(session).is_dir() {
        // A refused pipeline leaves no session to show.
        print_end(session, global, outcomes, names);
    }
    output::exit_code(outcomes.iter().find_map(|one| one.summary.error.as_ref()))
}

/// Runs the steps in order, with a heading for each. `after` is called after each step.
pub(super) fn run_with_headings(plan: ExecutionPlan, after: impl FnMut(&StepOutcome)) -> Result<Vec<StepOutcome>> {
    // A filter cannot be removed, so a pipeline with other steps has none.
    if plan.steps.iter().all(|step| step.given.get("offline") == Some(&true.into())) {
        deny_network();
    }
    let session = plan.session.clone();
    let total = plan.steps.len();
    let names: Vec<String> = plan.steps.iter().map(|one| one.step().to_string()).collect();
    let mut number = 0;
    let before = |_: &Request| {
        number += 1;
        console::heading(&format!("[{number}/{total}] {} (session {session})", names[number - 1]));
    };
    let outcomes = plan.run(before, after)?;
    console::end();
    Ok(outcomes)
}

/// Shows what the model answered to the prompts of the step itself.
fn print_answers(summary: &Summary) {
    for answer in answers_to_values(summary) {
        output::verbatim(&format!("{answer}\n"));
    }
}

fn print_end(session: &str, global: &GlobalArgs, outcomes: &[StepOutcome], names: &[String]) {
    let mut rows = vec![["step", "state", "time", "result", "output"].map(String::from)];
    for (i, name) in names.iter().enumerate() {
        rows.push(match outcomes.get(i).map(|one| &one.summary) {
            Some(summary) => [
                name.clone(),
                summary.state().into(),
                format!("{:.1} s", summary.duration_s),
                quality(summary),
                summary.outputs.values().map(output::plain_list).collect::<Vec<_>>().join(", "),
            ],
            None => [name.clone(), "not run".into(), String::new(), String::new(), String::new()],
        });
    }
    table(&rows, Some(4));
    let runs = runs_dir(global.runs_dir.as_deref());
    output::line(&format!("session {session} in {}", runs.join(session).display()));
    let next = outcomes.iter().rev().find_map(|one| next_command(&one.summary, &runs, global.runs_dir.is_some()));
    if let Some(command) = next.filter(|_| outcomes.iter().all(|one| one.error.is_none())) {
        output::command("next: ", &command);
    }
}
