//! A step in several processes: one that a lost worker ended is started again, and processes that torchrun started follow rank 0.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::base::error::Error;
use crate::base::{files, secrets};
use crate::python;
use crate::python::{Answer, ScriptCall};
use crate::session::Summary;
use crate::step::checkpoints;
use crate::step::host::StepHost;
use crate::step::inputs::StepInputs;
use crate::step::request::{Request, StepOutcome};

/// Calls the script. If a worker is lost, calls it again from the newest complete checkpoint, at most `max_restarts` times (a parameter).
/// Returns how many times it was.
pub(crate) fn call_with_restarts(call: &ScriptCall<'_>, host: &StepHost) -> Result<(Answer, u64)> {
    let allowed = call.params.get("max_restarts").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let mut checkpoint = call.checkpoint.map(Path::to_path_buf);
    for restarts in 0.. {
        let error = match python::call_script(&ScriptCall { checkpoint: checkpoint.as_deref(), ..call.clone() }) {
            Ok(answer) => return Ok((answer, restarts)),
            Err(error) => error,
        };
        if !host.take_worker_lost() {
            return Err(error);
        }
        if restarts == allowed {
            let read = Error::of(&error);
            let after = if restarts > 0 { format!(" (after {restarts} of {allowed} restarts)") } else { String::new() };
            return Err(Error { message: format!("{}{after}", read.message), ..read }.into());
        }
        warning!("{}", Error::of(&error).message);
        let inputs = StepInputs::read(call.step_folder)?.ok_or(error)?;
        checkpoint = checkpoints::newest(call.step_folder, &inputs)?;
        if checkpoint.is_none() {
            info!("there is no complete checkpoint, so the training begins again");
            files::remove(&call.step_folder.join("metrics.jsonl"))?;
        }
        info!("restart {} of {allowed}", restarts + 1);
    }
    unreachable!("the loop ends by returning")
}

/// Runs a step in a process that torchrun may have started: rank 0 runs it and tells the others of its end, for which they wait.
pub(crate) fn with_torchrun(request: Request, run: impl FnOnce(Request) -> StepOutcome) -> StepOutcome {
    let Some(place) = python::torchrun_place().filter(|_| !request.is_dry()) else { return run(request) };
    if place.rank > 0 {
        let followed = python::follow_step().and_then(|summary| Ok(serde_json::from_value::<Summary>(summary)?));
        return match followed {
            Ok(summary) => StepOutcome { error: summary.error.clone().map(anyhow::Error::from), summary },
            Err(error) => StepOutcome { summary: request.new_summary(), error: Some(error) },
        };
    }
    let mut outcome = run(request);
    let told = python::say_to_workers(&json!({"summary": outcome.summary}));
    if let (Err(error), None) = (told, &outcome.error) {
        outcome.error = Some(secrets::redact_error(Error::of(&error)).into());
    }
    outcome
}
