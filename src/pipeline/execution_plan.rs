//! The steps of a pipeline, ready to run in order.

use anyhow::Result;

use crate::python::note_signals;
use crate::step::request::{Request, StepOutcome};
use crate::step::run_step;

/// The steps of a run, in order.
#[derive(Clone, Debug)]
pub struct ExecutionPlan {
    pub session: String,
    pub steps: Vec<Request>,
}

impl ExecutionPlan {
    /// Runs the steps in order and stops after the first failure. `before` is called before each step.
    pub fn run(self, mut before: impl FnMut(&Request)) -> Result<Vec<StepOutcome>> {
        let mut outcomes = Vec::new();
        // A Ctrl-C between two steps stops the second.
        let _handlers = note_signals();
        for request in self.steps {
            before(&request);
            let outcome = run_step(request);
            let failed = outcome.error.is_some();
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        Ok(outcomes)
    }
}
