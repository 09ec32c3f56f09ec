//! The steps of a pipeline, ready to run in order.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::params::validate::resolve;
use crate::python::note_signals;
use crate::session::artifact::{check_reference, names_in};
use crate::session::names::runs_dir;
use crate::step::request::{Request, StepOutcome};
use crate::step::run_step;

/// The steps of a run, in order.
#[derive(Clone, Debug)]
pub struct ExecutionPlan {
    pub session: String,
    pub steps: Vec<Request>,
}

impl ExecutionPlan {
    /// The plan, if the values of all steps are valid: a wrong one in the last step must not waste the steps before it. `source` is where
    /// the steps come from, for the message. What a step reads is not checked here, because an earlier step may write it.
    ///
    /// # Errors
    /// Kind `usage`.
    pub fn checked(self, source: &str) -> Result<ExecutionPlan> {
        for request in &self.steps {
            resolve(request.task.name, request.task.all_params(), request.given.clone(), request.interface)
                .and_then(|params| self.check_references(request, &params))
                .map_err(|cause| error::usage(format!("{source}, step {}: {cause}", request.step())))?;
        }
        Ok(self)
    }

    /// Refuses references to steps of other sessions that do not exist. Those of this session may still come.
    fn check_references(&self, request: &Request, params: &Map<String, Value>) -> Result<()> {
        let runs = runs_dir(params["runs_dir"].as_str().map(Path::new));
        let artifacts = request.task.all_params().filter(|param| param.value_type.is_artifact());
        let names = artifacts.flat_map(|param| names_in(params.get(param.name)));
        let mut foreign = names.filter(|name| !name.starts_with('@') && name.split('/').rev().nth(1) != Some(&self.session));
        foreign.try_for_each(|name| check_reference(name, &runs, &self.session))
    }

    /// Runs the steps in order and stops after the first failure. `before` is called before each step, `after` when it has ended.
    pub fn run(self, mut before: impl FnMut(&Request), mut after: impl FnMut(&StepOutcome)) -> Result<Vec<StepOutcome>> {
        let mut outcomes = Vec::new();
        // A Ctrl-C between two steps stops the second.
        let _handlers = note_signals();
        for request in self.steps {
            before(&request);
            let outcome = run_step(request);
            after(&outcome);
            let failed = outcome.error.is_some();
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        Ok(outcomes)
    }
}
