//! Runs steps in order, with a heading for each and a table at the end. `run` and `resume` share it.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::cli::global::GlobalArgs;
use crate::cli::{console, output};
use crate::pipeline::ExecutionPlan;
use crate::session::{Status, runs_dir};
use crate::step::StepOutcome;

pub(crate) fn run_plan(plan: ExecutionPlan, global: &GlobalArgs) -> Result<u8> {
    let session = plan.session.clone();
    let total = plan.steps.len();
    let names: Vec<String> = plan.steps.iter().map(|one| one.step().to_string()).collect();
    let mut number = 0;
    let outcomes = plan.run(|_| {
        number += 1;
        console::heading(&format!("[{number}/{total}] {} (session {session})", names[number - 1]));
    })?;
    console::end();
    if global.json {
        let summaries: Vec<_> = outcomes.iter().map(|one| &one.summary).collect();
        output::json(&json!({"session": session, "steps": summaries}));
    } else {
        print_table(&session, &runs_dir(global.runs_dir.as_deref()), &outcomes, &names);
    }
    Ok(output::exit_code(outcomes.iter().find_map(|one| one.summary.error.as_ref())))
}

fn print_table(session: &str, runs: &Path, outcomes: &[StepOutcome], names: &[String]) {
    let mut rows = vec![["step", "status", "time", "output"].map(String::from)];
    for (i, name) in names.iter().enumerate() {
        rows.push(match outcomes.get(i).map(|one| &one.summary) {
            Some(summary) => [
                name.clone(),
                if summary.status == Status::Success { "success".into() } else { "failure".into() },
                format!("{:.1} s", summary.duration_s),
                summary.outputs.values().map(output::plain_list).collect::<Vec<_>>().join(", "),
            ],
            None => [name.clone(), "not run".into(), String::new(), String::new()],
        });
    }
    output::table(&rows);
    output::line(&format!("session {session} in {}", runs.join(session).display()));
}
