//! Compares a session with its repetition, step by step: the curves, what the step says of its result, and the files that it made.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::base::files as own_files;
use crate::pipeline::recorded_request::is_path_type;
use crate::pipeline::reproduce::files;
use crate::pipeline::reproduce::plan::successes;
use crate::pipeline::reproduce::values::{SessionNames, is_measured};
use crate::report::compare;
use crate::session::summary::{Status, Summary};
use crate::tasks::task_named;

/// A session and its repetition.
#[derive(Clone, Debug, Serialize)]
pub struct Reproduction {
    pub session: String,
    /// The session in which its steps ran again.
    pub reproduced_as: String,
    /// Whether everything that was compared is the same.
    pub same: bool,
    /// In the order in which they ran.
    pub steps: Vec<ReproducedStep>,
    /// Why the first difference may be there: what else differs between the sessions. `None` if nothing differs.
    pub likely_cause: Option<String>,
}

/// A step and its repetition.
#[derive(Clone, Debug, Serialize)]
pub struct ReproducedStep {
    pub step: String,
    pub task: String,
    /// What was compared: `metrics`, `result`, and the roles of the outputs, such as `model`.
    pub compared: Vec<String>,
    /// The first difference, with its role: `adapter: adapter_model.safetensors: its bytes differ`. `None` if there is none.
    pub difference: Option<String>,
}

/// Compares what the steps of `session` made with what they made again in `copy`.
///
/// # Errors
/// Kind `io` or `input` if a record or file cannot be read, `interrupted` after Ctrl-C.
pub(crate) fn check(runs: &Path, session: &str, copy: &str) -> Result<Reproduction> {
    let names = SessionNames { first: session, again: copy };
    let mut steps = Vec::new();
    for first in successes(&runs.join(session))? {
        let again = Summary::read(&runs.join(copy).join(&first.step))?.filter(|summary| summary.status == Status::Success);
        let mut made = ReproducedStep { step: first.step.clone(), task: first.task.clone(), compared: Vec::new(), difference: None };
        match again {
            None => made.difference = Some("the step did not succeed again".into()),
            Some(again) => compare_step(runs, names, &first, &again, &mut made)?,
        }
        steps.push(made);
    }
    let first = steps.iter().find(|step| step.difference.is_some());
    let likely_cause = first.map(|step| cause(runs, session, copy, step)).transpose()?;
    Ok(Reproduction { session: session.into(), reproduced_as: copy.into(), same: likely_cause.is_none(), steps, likely_cause })
}

fn compare_step(runs: &Path, names: SessionNames<'_>, first: &Summary, again: &Summary, made: &mut ReproducedStep) -> Result<()> {
    let mut note = |role: &str, what: Option<String>| {
        made.compared.push(role.to_string());
        made.difference = made.difference.take().or_else(|| what.map(|what| format!("{role}: {what}")));
    };
    let folders = [names.first, names.again].map(|session| runs.join(session));
    let curves = folders.each_ref().map(|folder| curve(&folder.join(&first.step).join("metrics.jsonl")));
    if !curves[0].is_empty() || !curves[1].is_empty() {
        note("metrics", of_curves(names, &curves[0], &curves[1]));
    }
    let figures = |summary: &Summary| -> Value {
        summary.metrics.iter().filter(|(name, _)| !name.starts_with("size_")).map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let values =
        [(figures(first), figures(again)), (first.result.clone(), again.result.clone()), (first.proof.clone(), again.proof.clone())];
    note("result", values.iter().find_map(|(first, again)| names.difference(first, again, "")));
    for (role, first) in &first.outputs {
        let paths = |value: &Value| -> Vec<String> {
            let all = value.as_array().map_or_else(|| vec![value.clone()], Clone::clone);
            all.iter().filter_map(Value::as_str).map(ToString::to_string).collect()
        };
        let (first, again) = (paths(first), again.outputs.get(role).map(paths).unwrap_or_default());
        let mut what = (first.len() != again.len()).then(|| format!("{} and {} files", first.len(), again.len()));
        for (first, again) in first.iter().zip(&again) {
            if what.is_none() {
                what = files::difference(names, &folders[0].join(first), &folders[1].join(again))?;
            }
        }
        note(role, what);
    }
    Ok(())
}

/// The rows of metrics.jsonl by their step. Of a step that a resumed training repeated, the last.
fn curve(path: &Path) -> BTreeMap<u64, Map<String, Value>> {
    let text = own_files::read_own(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let mut rows: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for row in text.lines().filter_map(|line| serde_json::from_str::<Map<String, Value>>(line).ok()) {
        let Some(step) = row.get("step").and_then(Value::as_u64) else { continue };
        rows.entry(step).or_default().extend(row.into_iter().filter(|(name, _)| !is_measured(name)));
    }
    rows
}

fn of_curves(
    names: SessionNames<'_>,
    first: &BTreeMap<u64, Map<String, Value>>,
    again: &BTreeMap<u64, Map<String, Value>>,
) -> Option<String> {
    let steps = first.keys().chain(again.keys().filter(|step| !first.contains_key(step)));
    let row = |rows: &BTreeMap<u64, Map<String, Value>>, step: &u64| rows.get(step).cloned().map_or(Value::Null, Value::from);
    steps.copied().find_map(|step| {
        let what = names.difference(&row(first, &step), &row(again, &step), "")?;
        Some(format!("at optimizer step {step}, {what}"))
    })
}

/// What else differs between the sessions, in the order in which it explains a difference.
fn cause(runs: &Path, session: &str, copy: &str, step: &ReproducedStep) -> Result<String> {
    // A path may be another one to the same file, which its hash tells.
    let is_path = |name: &str| {
        let params = task_named(&step.task).map(|task| task.all_params().filter(|param| param.name == name).collect::<Vec<_>>());
        params.is_ok_and(|params| params.iter().any(|param| is_path_type(param.value_type)))
    };
    let comparison = compare(runs, &[session.to_string(), copy.to_string()])?;
    let mut causes = Vec::new();
    for part in ["data", "parameters", "versions"] {
        let of_step = |name: &Option<String>| name.as_ref().is_none_or(|name| *name == step.step);
        for group in comparison.groups.iter().filter(|group| group.part == part && of_step(&group.step)) {
            let rows = group.rows.iter().filter(|row| match part {
                "data" => row.name.contains("SHA-256"),
                "parameters" => !is_path(&row.name),
                _ => true,
            });
            causes.extend(rows.map(|row| {
                let values = row.texts();
                format!("{}: {} then, {} now", row.name, values[0], values[1])
            }));
        }
    }
    let unknown = match step.task.as_str() {
        "script" => {
            "data, parameters and versions are the same; the script may depend on the time, on chance or on files that it does not declare"
        }
        _ => {
            "data, parameters and versions are the same; kernels may add numbers in another order, on a GPU or with another number of threads (OMP_NUM_THREADS)"
        }
    };
    Ok(if causes.is_empty() { unknown.into() } else { causes.join("; ") })
}
