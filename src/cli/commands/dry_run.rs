//! What `--dry-run` shows: the resolved parameters of a step, or of each step of a pipeline.

use anyhow::Result;
use serde_json::json;

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::pipeline::ExecutionPlan;
use crate::session::Summary;

/// Checks the steps of a pipeline and shows them. Stops at the first with an error.
pub(crate) fn show_plan(plan: ExecutionPlan, global: &GlobalArgs) -> Result<u8> {
    let session = plan.session.clone();
    let outcomes = plan.run(|_| {})?;
    if global.json {
        let summaries: Vec<_> = outcomes.iter().map(|one| &one.summary).collect();
        output::json(&json!({"session": session, "steps": summaries}));
    } else {
        let checked = outcomes.iter().filter(|one| one.error.is_none());
        output::line(&checked.map(|one| step_text(&one.summary)).collect::<Vec<_>>().join("\n\n"));
    }
    Ok(output::exit_code(outcomes.iter().find_map(|one| one.summary.error.as_ref())))
}

/// The resolved parameters of a step that was only checked.
pub(crate) fn step_text(summary: &Summary) -> String {
    let mut lines = vec![format!("{} would run as session {}, step {}", summary.task, summary.session, summary.step)];
    lines.extend(summary.params.iter().map(|(name, value)| format!("  {name:<28} {value}")));
    lines.join("\n")
}
