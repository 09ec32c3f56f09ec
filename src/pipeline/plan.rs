//! The steps of a pipeline, ready to run in order.

use anyhow::Result;

use crate::python::note_signals;
use crate::step::request::{Outcome, Request};
use crate::step::run_step;

/// One step, ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub session: String,
    pub steps: Vec<Request>,
}

impl Plan {
    /// Runs the steps in order and stops after one that fails; `before` is told of each.
    pub fn run(self, mut before: impl FnMut(&Request)) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        // Ctrl-C between two steps is found by the second.
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
