//! The steps of a pipeline, ready to run in order.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::params::validate::resolve_or_list;
use crate::pipeline::pipeline_errors::PipelineErrors;
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
    /// The plan, if the values of all steps are valid: a wrong one in the last step must not waste the steps before it. What a step reads
    /// is not checked here, because an earlier step may write it. `errors` has those that were found already.
    ///
    /// # Errors
    /// Kind `usage`.
    pub(super) fn checked(self, mut errors: PipelineErrors) -> Result<ExecutionPlan> {
        for (i, request) in self.steps.iter().enumerate() {
            match resolve_or_list(request.task.name, request.task.all_params(), request.given.clone(), request.interface) {
                Ok(params) => self.check_references((i, request), &params, &mut errors),
                Err(wrong) => {
                    for one in wrong {
                        errors.add_to_step((i, request.step()), one.name.as_deref(), one.text);
                    }
                }
            }
        }
        errors.into_result().map(|()| self)
    }

    /// Refuses references to steps of other sessions that do not exist. Those of this session may still come.
    fn check_references(&self, (i, request): (usize, &Request), params: &Map<String, Value>, errors: &mut PipelineErrors) {
        let runs = runs_dir(params["runs_dir"].as_str().map(Path::new));
        for param in request.task.all_params().filter(|param| param.value_type.is_artifact()) {
            let names = names_in(params.get(param.name));
            for name in names.filter(|name| !name.starts_with('@') && name.split('/').rev().nth(1) != Some(&self.session)) {
                if let Err(cause) = check_reference(name, &runs, &self.session) {
                    errors.add_to_step((i, request.step()), Some(param.name), cause);
                }
            }
        }
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
