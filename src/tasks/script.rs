//! Runs a user's own script as a step.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

step_params! {
    []
    /// Run your own script: a file with `run(params, session) -> dict`.
    ScriptParams {
        /// The script's own parameters, checked against its PARAMS.
        unset params: Map<String, Value> = Map::new(), ParamType::Object, Script;
    }
}

pub(crate) static TASK: Task = Task {
    name: "script",
    function: "run_script",
    about: "Run your own script",
    examples: [
        ("Run a script of your own as a step:", "pyrust-nn script count.py"),
        ("With values for its own parameters:", "pyrust-nn script count.py --session s1 --param data=data.json --param top=3"),
    ],
    input: &SCRIPT,
    params: ScriptParams::params,
    script: None,
};

/// Runs a Python script with `run(params, session) -> dict`.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn run_script(session: &str, script: &str, params: &ScriptParams) -> Result<Summary> {
    run_task(&TASK, session, script, params)
}
