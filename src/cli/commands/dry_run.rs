//! What `--dry-run` shows: the parameters of a step, or of each step of a pipeline, that have other values than their defaults; with
//! `--verbose` all, and which are defaults.

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::text::counted;
use crate::params::param::{Param, Presence};
use crate::params::task::Task;
use crate::pipeline::ExecutionPlan;
use crate::session::Summary;
use crate::tasks::task_named;

/// Checks the steps of a pipeline and shows them. Stops at the first with an error.
pub(crate) fn show_plan(plan: ExecutionPlan, global: &GlobalArgs) -> Result<u8> {
    let session = plan.steps.first().and_then(|step| step.session.clone()).unwrap_or_default();
    let outcomes = plan.run(|_| {}, |_| {})?;
    if global.json {
        let summaries: Vec<_> = outcomes.iter().map(|one| &one.summary).collect();
        output::json(&json!({"session": session, "steps": summaries}));
    } else {
        let checked = outcomes.iter().filter(|one| one.error.is_none());
        let texts: Vec<String> = checked.map(|one| step_text(&one.summary, global.verbose)).collect();
        output::line(&texts.join("\n\n"));
    }
    Ok(output::exit_code(outcomes.iter().find_map(|one| one.summary.error.as_ref())))
}

/// The resolved parameters of a step that was only checked.
pub(crate) fn step_text(summary: &Summary, all: bool) -> String {
    let session = if summary.session.is_empty() { "in a new session".into() } else { format!("as session {}", summary.session) };
    let mut lines = vec![format!("{} would run {session}, step {}", summary.task, summary.step)];
    let params: Vec<&Param> = task_named(&summary.task).into_iter().flat_map(Task::all_params).collect();
    let is_default = |name: &str, value: &Value| {
        let param = params.iter().find(|param| param.name == name);
        param.is_some_and(|param| param.presence != Presence::Required && *value == (param.default)())
    };
    let mut defaults = 0;
    for (name, value) in summary.params.iter().filter(|(name, _)| *name != "dry_run") {
        let default = is_default(name, value);
        defaults += u64::from(default);
        if all || !default {
            lines.push(format!("  {name:<28} {value}{}", if default { "  (default)" } else { "" }));
        }
    }
    if !all && defaults > 0 {
        let have = if defaults == 1 { "has its default" } else { "have their defaults" };
        lines.push(format!("  {} {have} (--verbose shows all)", counted(defaults, "other parameter")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::params::interface::Interface;
    use crate::step::{Request, run_step};

    #[test]
    fn a_dry_run_shows_what_is_no_default_and_in_a_verbose_one_which_are() {
        let runs = tempfile::tempdir().unwrap();
        let given = json!({"model": "builtin:tiny", "bits": 16, "verify": true, "dry_run": true, "runs_dir": runs.path()});
        let given = given.as_object().cloned().unwrap();
        let summary = run_step(Request::new(task_named("quantize_model").unwrap(), None, given, Interface::Cli)).into_result().unwrap();
        let text = step_text(&summary, false);
        let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let defaults = summary.params.len() - 4;
        assert!(text.starts_with("quantize_model would run in a new session, step quantize_model\n"), "{text}");
        assert_eq!(names, ["quantize_model", "model", "bits", "runs_dir", &defaults.to_string()], "{text}");
        let all = step_text(&summary, true);
        assert_eq!(all.lines().count(), summary.params.len(), "all but dry_run, below a heading: {all}");
        assert_eq!(all.lines().filter(|line| line.ends_with("(default)")).count(), defaults, "{all}");
    }
}
