//! Finds the remaining steps of a session: an interrupted or failed attempt, and the later steps of its pipeline.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::params::interface::Interface;
use crate::params::task::Task;
use crate::params::validate::resolve;
use crate::pipeline::execution_plan::ExecutionPlan;
use crate::pipeline::pipeline_errors::PipelineErrors;
use crate::pipeline::recorded_request::recorded_request;
use crate::pipeline::withheld;
use crate::session::existing_session::existing_session;
use crate::session::names::runs_dir;
use crate::session::record::{Session, read_record};
use crate::session::summary::{Status, Summary};
use crate::step::folder::StepFolder;
use crate::step::inputs::StepInputs;
use crate::step::request::Request;
use crate::step::{folder, refusal};
use crate::tasks::task_named;

/// The steps to run: `step` if given, otherwise the remaining steps of the session's pipeline, otherwise the last attempt that did not succeed.
///
/// `runs` is the folder of all sessions (`None`: PYRUST_NN_RUNS, otherwise `runs`). `secrets` are those of the remaining steps, by name.
/// `processes` are other values of `nproc_per_node` and `max_restarts`, which do not change what is trained.
///
/// # Errors
/// Kind `usage` if there is no such session or step, nothing to do, or a secret is missing; `busy` while the session is in use; `input` if the pipeline's
/// parameters have changed.
pub fn remaining(
    runs: Option<&Path>,
    session: &str,
    step: Option<&str>,
    secrets: &Map<String, Value>,
    processes: &Map<String, Value>,
    interface: Interface,
) -> Result<ExecutionPlan> {
    let found = find(runs, session, step, secrets, interface).and_then(|mut plan| {
        for (name, value) in processes.iter().filter(|(_, value)| !value.is_null()) {
            let steps: Vec<&mut Request> = plan.steps.iter_mut().filter(|request| request.task.has(name)).collect();
            if steps.is_empty() {
                return Err(error::usage(format!("{} is of fine-tuning, and no such step remains", interface.spell(name))));
            }
            for request in steps {
                request.given.insert(name.clone(), value.clone());
                resolve(request.task.name, request.task.all_params(), request.given.clone(), interface)?;
            }
        }
        Ok(plan)
    });
    found.inspect_err(|error| refusal::note(&runs_dir(runs), session, "resume", error))
}

fn find(
    runs: Option<&Path>,
    session: &str,
    step: Option<&str>,
    secrets: &Map<String, Value>,
    interface: Interface,
) -> Result<ExecutionPlan> {
    let folder = existing_session(&runs_dir(runs), session)?;
    let held = Session::open(&runs_dir(runs), session)?; // fails if another process uses the session
    folder::complete_replacements(&folder)?;
    drop(held);
    let record = read_record(&folder)?.unwrap_or_default();
    let remaining = RemainingSteps { folder: &folder, runs, session, interface, plan: record.get("plan").unwrap_or(&Value::Null) };
    let invocations = record.get("invocations").and_then(Value::as_array).cloned().unwrap_or_default();
    let names: Vec<&str> = invocations.iter().filter_map(|one| one["step"].as_str()).collect();
    let mut steps = match step {
        Some(step) => vec![remaining.named(step, &invocations)?],
        None => {
            let planned = remaining.planned()?;
            if planned.is_empty() { vec![remaining.last(&names, &invocations)?] } else { planned }
        }
    };
    withheld::restore(&mut steps, secrets, interface)?;
    ExecutionPlan { session: session.to_string(), steps }.checked(PipelineErrors::new(&format!("session {session}")))
}

/// What to do about an attempt that failed before it had recorded its inputs: its data were wrong, for example.
fn not_begun(attempt: &Value) -> String {
    let argv: Vec<&str> = attempt["argv"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_plain = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte));
    let command = match argv.split_first() {
        Some((program, words)) if Path::new(program).file_name().is_some_and(|name| name == "pyrust-nn") && words.iter().all(is_plain) => {
            format!(": `pyrust-nn {}`", words.join(" "))
        }
        _ => String::new(),
    };
    format!("it failed before it began, so nothing of it can be resumed; run it again{command}")
}

/// The state from which the remaining steps of a session are found.
struct RemainingSteps<'a> {
    folder: &'a Path,
    runs: Option<&'a Path>,
    session: &'a str,
    interface: Interface,
    /// The session's pipeline, or null.
    plan: &'a Value,
}

impl RemainingSteps<'_> {
    /// The unfinished attempt of the step `step`, or its first one if it is a step of the pipeline that has not begun.
    fn named(&self, step: &str, invocations: &[Value]) -> Result<Request> {
        if let Some(request) = self.unfinished(step)? {
            return Ok(request);
        }
        let planned = self.plan_requests()?;
        let mut known: Vec<String> = planned.iter().map(|request| request.step().to_string()).collect();
        if let Some(request) = planned.into_iter().find(|request| request.step() == step).filter(|_| !self.succeeded_in(step, self.plan)) {
            return Ok(request);
        }
        if self.succeeded_in(step, &Value::Null) {
            return Err(error::usage(format!("step {step} of session {} has succeeded, so there is nothing to resume", self.session)));
        }
        known.extend(invocations.iter().filter_map(|one| one["step"].as_str()).map(String::from));
        let reason = match invocations.iter().rev().find(|one| one["step"] == step) {
            Some(attempt) => not_begun(attempt),
            None => match error::did_you_mean(step, known.iter().map(String::as_str)) {
                Some(near) => format!("there is no such step; did you mean {near}?"),
                None if known.is_empty() => "there is no such step, and no step has been started".to_string(),
                None => {
                    known.sort();
                    known.dedup();
                    format!("there is no such step; the session has {}", known.join(", "))
                }
            },
        };
        Err(error::usage(format!("step {step} of session {} cannot be resumed: {reason}", self.session)))
    }

    /// The steps of the pipeline that have not succeeded since it was started.
    fn planned(&self) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for planned in self.plan_requests()? {
            let name = planned.step().to_string();
            if self.succeeded_in(&name, self.plan) {
                continue;
            }
            match self.unfinished(&name)? {
                Some(unfinished) => {
                    self.check_unchanged(&name, &planned)?;
                    requests.push(unfinished);
                }
                None => requests.push(planned),
            }
        }
        Ok(requests)
    }

    /// All steps of the pipeline, as it was started.
    fn plan_requests(&self) -> Result<Vec<Request>> {
        let rows = self.plan["steps"].as_array().into_iter().flatten();
        let cwd = Path::new(self.plan["cwd"].as_str().unwrap_or_default());
        let request = |row: &Value| {
            let task = task_named(row["task"].as_str().unwrap_or_default())?;
            Ok(self.request(task, row["given"].as_object().cloned().unwrap_or_default(), cwd))
        };
        rows.map(request).collect()
    }

    /// The newest attempt that did not succeed.
    fn last(&self, names: &[&str], invocations: &[Value]) -> Result<Request> {
        let nothing = |why: String| error::usage(format!("session {} has nothing to resume: {why}", self.session));
        let mut seen = Vec::new();
        let mut failed = None;
        for (name, one) in names.iter().zip(invocations).rev() {
            if seen.contains(name) {
                continue;
            }
            seen.push(*name);
            if one["status"] != "Success" {
                if let Some(request) = self.unfinished(name)? {
                    return Ok(request);
                }
                failed = failed.or(Some((name, one)));
            }
        }
        Err(match failed {
            Some((name, attempt)) => nothing(format!("step {name}: {}", not_begun(attempt))),
            None if seen.is_empty() => nothing("no step has been started".into()),
            None => nothing("every step has succeeded".into()),
        })
    }

    /// The unfinished attempt of a step, with its original parameters.
    fn unfinished(&self, step: &str) -> Result<Option<Request>> {
        let Some(folder) = StepFolder::unfinished(self.folder, step) else { return Ok(None) };
        let Some(inputs) = StepInputs::read(&folder)? else { return Ok(None) };
        let mut request = self.request(task_named(&inputs.task)?, inputs.params, &inputs.cwd);
        request.given.insert("step".into(), step.into());
        request.resume = true;
        Ok(Some(request))
    }

    fn request(&self, task: &'static Task, given: Map<String, Value>, cwd: &Path) -> Request {
        recorded_request(task, given, cwd, self.runs, self.session, self.interface)
    }

    /// Fails if the parameters of an unfinished step have changed in the pipeline.
    fn check_unchanged(&self, step: &str, planned: &Request) -> Result<()> {
        let inputs = StepFolder::unfinished(self.folder, step).map(|folder| StepInputs::read(&folder)).transpose()?.flatten();
        let params = resolve(planned.task.name, planned.task.all_params(), planned.given.clone(), self.interface)?;
        // Relative paths are absolute if the working directory has changed, so both sides need the same treatment.
        let changed = inputs
            .map(|inputs| self.request(planned.task, inputs.params.clone(), &inputs.cwd).given)
            .map(|given| StepInputs::new(planned.task.name, &given).changed_params(&params));
        match changed {
            Some(changed) if !changed.is_empty() => Err(error::input(format!(
                "step {step} of session {} cannot be resumed, because its parameters in the pipeline have changed: {}; restart the step with {}",
                self.session,
                changed.join(", "),
                self.interface.switched_on("overwrite")
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a step has succeeded in a run of the pipeline, or ever if there is none. A session of an earlier build has no ids, so its times
    /// decide.
    fn succeeded_in(&self, step: &str, plan: &Value) -> bool {
        let in_run = |one: &Summary| match (plan["id"].as_str(), plan["started_at"].as_str()) {
            (Some(id), _) => one.pipeline_run.as_deref() == Some(id),
            (None, since) => one.started_at.as_str() >= since.unwrap_or_default(),
        };
        matches!(Summary::read(&self.folder.join(step)), Ok(Some(one)) if one.status == Status::Success && in_run(&one))
    }
}
