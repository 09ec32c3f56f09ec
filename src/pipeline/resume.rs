//! What is left to do in a session: an attempt that was interrupted or failed, and the steps of its pipeline that come after it.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::data;
use crate::params::interface::Interface;
use crate::params::kind::Kind;
use crate::params::task::Task;
use crate::params::validate::resolve;
use crate::pipeline::plan::Plan;
use crate::session::names::runs_dir;
use crate::session::record::{Session, read_record};
use crate::session::status::existing;
use crate::session::summary::{Status, Summary};
use crate::step::folder;
use crate::step::folder::Place;
use crate::step::inputs::Begun;
use crate::step::request::Request;
use crate::tasks::task_named;

/// The steps to run: with `step` that one alone, else what the session's pipeline has left, else the last attempt that did not succeed.
///
/// `runs` is the folder of all sessions (None: PYRUST_NN_RUNS, else `runs`).
///
/// # Errors
/// Kind `usage` where there is no such session or step, or nothing is left to do; `busy` while the session is in use.
pub fn remaining(runs: Option<&Path>, session: &str, step: Option<&str>, interface: Interface) -> Result<Plan> {
    let folder = existing(&runs_dir(runs), session)?;
    let held = Session::open(&runs_dir(runs), session)?; // says who holds it
    folder::restore(&folder)?;
    drop(held);
    let record = read_record(&folder)?.unwrap_or_default();
    let left = Left { folder: &folder, runs, session, interface, plan: record.get("plan").unwrap_or(&Value::Null) };
    let invocations = record.get("invocations").and_then(Value::as_array).cloned().unwrap_or_default();
    let names: Vec<&str> = invocations.iter().filter_map(|one| one["step"].as_str()).collect();
    let steps = match step {
        Some(step) => vec![left.named(step, &names)?],
        None => {
            let planned = left.planned()?;
            if planned.is_empty() { vec![left.last(&names, &invocations)?] } else { planned }
        }
    };
    Ok(Plan { session: session.to_string(), steps })
}

/// A session that may have something left.
struct Left<'a> {
    folder: &'a Path,
    runs: Option<&'a Path>,
    session: &'a str,
    interface: Interface,
    /// The pipeline that it was made by, or null.
    plan: &'a Value,
}

impl Left<'_> {
    fn named(&self, step: &str, known: &[&str]) -> Result<Request> {
        if let Some(request) = self.again(step)? {
            return Ok(request);
        }
        if self.succeeded_since(step, "") {
            return Err(error::usage(format!("step {step} of session {} has succeeded; there is nothing to resume", self.session)));
        }
        let cure = match error::did_you_mean(step, known.iter().copied()) {
            _ if known.contains(&step) => "it failed before it began; run it again".to_string(),
            Some(near) => format!("there is no such step; did you mean {near}?"),
            None => "there is no such step".to_string(),
        };
        Err(error::usage(format!("step {step} of session {} cannot be resumed: {cure}", self.session)))
    }

    /// The steps of the pipeline that have not succeeded since it was started.
    fn planned(&self) -> Result<Vec<Request>> {
        let since = self.plan["started_at"].as_str().unwrap_or_default();
        let mut requests = Vec::new();
        for row in self.plan["steps"].as_array().into_iter().flatten() {
            let task = task_named(row["task"].as_str().unwrap_or_default())?;
            let given = row["given"].as_object().cloned().unwrap_or_default();
            let cwd = Path::new(self.plan["cwd"].as_str().unwrap_or_default());
            let planned = self.request(task, given, cwd);
            let name = planned.step().to_string();
            if self.succeeded_since(&name, since) {
                continue;
            }
            match self.again(&name)? {
                Some(again) => {
                    self.check_unchanged(&name, &planned)?;
                    requests.push(again);
                }
                None => requests.push(planned),
            }
        }
        Ok(requests)
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
                if let Some(request) = self.again(name)? {
                    return Ok(request);
                }
                failed = failed.or(Some(*name));
            }
        }
        Err(match failed {
            Some(name) => nothing(format!("step {name} failed before it began; run it again")),
            None if seen.is_empty() => nothing("no step was begun in it".into()),
            None => nothing("every step has succeeded".into()),
        })
    }

    /// The attempt that stands there, with what it was begun with.
    fn again(&self, step: &str) -> Result<Option<Request>> {
        let Some(place) = Place::unfinished(self.folder, step) else { return Ok(None) };
        let Some(begun) = Begun::read(&place)? else { return Ok(None) };
        let mut request = self.request(task_named(&begun.task)?, begun.params, &begun.cwd);
        request.given.insert("step".into(), step.into());
        request.resume = true;
        Ok(Some(request))
    }

    /// Parameters as they were given, with paths that still lead where they did.
    fn request(&self, task: &'static Task, mut given: Map<String, Value>, cwd: &Path) -> Request {
        let elsewhere = std::env::current_dir().is_ok_and(|now| now != cwd);
        let there = |text: &str| {
            let path = cwd.join(text);
            // A pattern leads where any of its files is; `expand` says so.
            let leads = elsewhere && Path::new(text).is_relative() && (path.exists() || data::expand(&[path.to_string_lossy()]).is_ok());
            leads.then(|| Value::from(path.to_string_lossy().into_owned()))
        };
        let kinds = [Kind::Path, Kind::Paths, Kind::Model, Kind::Adapter];
        for param in task.all_params().filter(|param| kinds.contains(&param.kind)) {
            match given.get_mut(param.name) {
                Some(Value::Array(paths)) => {
                    for path in paths {
                        *path = path.as_str().and_then(there).unwrap_or_else(|| path.take());
                    }
                }
                Some(path) => *path = path.as_str().and_then(there).unwrap_or_else(|| path.take()),
                None => {}
            }
        }
        match self.runs {
            Some(runs) => drop(given.insert("runs_dir".into(), runs.to_string_lossy().into())),
            None => drop(given.shift_remove("runs_dir")),
        }
        Request::new(task, Some(self.session.to_string()), given, self.interface)
    }

    fn check_unchanged(&self, step: &str, planned: &Request) -> Result<()> {
        let begun = Place::unfinished(self.folder, step).map(|place| Begun::read(&place)).transpose()?.flatten();
        let params = resolve(planned.task.name, planned.task.all_params(), planned.given.clone(), self.interface)?;
        // Paths were made absolute where the working directory is another one.
        let changed = begun
            .map(|begun| self.request(planned.task, begun.params.clone(), &begun.cwd).given)
            .map(|given| Begun::new(planned.task.name, &given).changed_params(&params));
        match changed {
            Some(changed) if !changed.is_empty() => Err(error::input(format!(
                "step {step} of session {} cannot be resumed, its parameters in the pipeline have changed: {}; run the step anew with overwrite",
                self.session,
                changed.join(", ")
            ))),
            _ => Ok(()),
        }
    }

    fn succeeded_since(&self, step: &str, since: &str) -> bool {
        matches!(Summary::read(&self.folder.join(step)), Ok(Some(one)) if one.status == Status::Success && one.started_at.as_str() >= since)
    }
}
