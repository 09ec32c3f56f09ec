//! The steps of a session as steps of another one, from the session's own record: the parameters in each step's begun.json.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::params::interface::Interface;
use crate::pipeline::execution_plan::ExecutionPlan;
use crate::pipeline::pipeline_errors::PipelineErrors;
use crate::pipeline::recorded_request::recorded_request;
use crate::pipeline::withheld;
use crate::session::existing_session::existing_session;
use crate::session::names::{check_name, runs_dir};
use crate::session::record::read_record;
use crate::session::summary::{Status, Summary};
use crate::step::inputs::StepInputs;
use crate::tasks::task_named;

/// Parameters of a run that a repetition does not take over.
const OF_THE_RUN: [&str; 3] = ["overwrite", "dry_run", "runs_dir"];

/// The steps of `session` that succeeded, in the order in which they ran, as steps of the session `copy`: by default the first unused one of
/// `SESSION-again`, `SESSION-again-2` and so on. Models and adapters of the session become those of the copy.
///
/// # Errors
/// Kind `usage` if there is no such session, none of its steps succeeded, the copy exists, or a secret is missing; `input` if its records are damaged.
pub(crate) fn reproduction(
    runs: Option<&Path>,
    session: &str,
    copy: Option<&str>,
    secrets: &Map<String, Value>,
    interface: Interface,
) -> Result<ExecutionPlan> {
    let all = runs_dir(runs);
    let folder = existing_session(&all, session)?;
    let copy = match copy {
        Some(copy) if all.join(copy).exists() => {
            let into = interface.spell("into");
            return Err(error::usage(format!("session {copy} exists in {}; name another one with {into}", all.display())));
        }
        Some(copy) => copy.to_string(),
        None => unused_name(&all, session),
    };
    check_name("session", &copy)?;
    let mut steps = Vec::new();
    for Summary { step, .. } in successes(&folder)? {
        let Some(inputs) = StepInputs::read(&folder.join(&step))? else {
            return Err(error::input(format!("{} has no begun.json, so step {step} cannot run again", folder.join(&step).display())));
        };
        let task = task_named(&inputs.task)?;
        let mut given = inputs.params;
        given.retain(|name, _| !OF_THE_RUN.contains(&name.as_str()));
        given.insert("step".into(), step.as_str().into());
        for param in task.all_params().filter(|param| param.value_type.is_artifact()) {
            if let Some(value) = given.get_mut(param.name) {
                move_references(value, &folder, session, &all.join(&copy), &inputs.cwd);
            }
        }
        steps.push(recorded_request(task, given, &inputs.cwd, runs, &copy, interface));
    }
    if steps.is_empty() {
        return Err(error::usage(format!("no step of session {session} has succeeded, so there is nothing to reproduce")));
    }
    withheld::restore(&mut steps, secrets, interface)?;
    ExecutionPlan { session: copy, steps }.checked(PipelineErrors::new(&format!("session {session}")))
}

fn unused_name(runs: &Path, session: &str) -> String {
    let first = format!("{session}-again");
    let more = (2..).map(|number| format!("{first}-{number}"));
    std::iter::once(first.clone()).chain(more).find(|name| !runs.join(name).exists()).unwrap_or(first)
}

/// The summaries of the steps that succeeded, in the order of their last success.
pub(super) fn successes(folder: &Path) -> Result<Vec<Summary>> {
    let record = read_record(folder)?.unwrap_or_default();
    let mut steps: Vec<String> = Vec::new();
    for one in record.get("invocations").and_then(Value::as_array).into_iter().flatten() {
        let (Some(step), Some("Success")) = (one["step"].as_str(), one["status"].as_str()) else { continue };
        steps.retain(|earlier| earlier != step);
        steps.push(step.to_string());
    }
    let mut succeeded = Vec::new();
    for step in steps {
        succeeded.extend(Summary::read(&folder.join(&step))?.filter(|summary| summary.status == Status::Success));
    }
    Ok(succeeded)
}

/// Makes `session/step` and paths into the session's folder those of the copy. `@step` means the copy's step already.
fn move_references(value: &mut Value, folder: &Path, session: &str, copy: &Path, cwd: &Path) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| move_references(value, folder, session, copy, cwd)),
        Value::String(name) => {
            if let Some(step) = name.strip_prefix(session).and_then(|rest| rest.strip_prefix('/')) {
                *name = format!("@{step}");
            } else if let (Ok(path), Ok(folder)) = (cwd.join(&*name).canonicalize(), folder.canonicalize())
                && let Ok(inside) = path.strip_prefix(&folder)
            {
                *name = copy.join(inside).to_string_lossy().into_owned();
            }
        }
        _ => {}
    }
}
