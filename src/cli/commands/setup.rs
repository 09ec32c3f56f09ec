//! `setup`: the Python environment.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::base::error;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::python::environment::Environment;
use crate::python::{environment, host_prefix};

/// Find the Python environment, or make it
#[derive(Args, Debug)]
pub(crate) struct Setup {}

impl Setup {
    pub(crate) fn run(global: &GlobalArgs) -> Result<u8> {
        let found = match host_prefix() {
            Some(prefix) => complete(environment::of_host(prefix))?,
            None if global.no_setup => environment::find(global.python_env.as_deref())?,
            None => environment::find_or_make(global.python_env.as_deref(), global.offline)?,
        };
        if global.json {
            output::json(&json!({"python_env": found.folder, "from": found.from}));
        } else {
            output::line(&format!("Python environment: {} ({})", found.folder.display(), found.from));
        }
        Ok(0)
    }
}

/// Where Python is the host, its own installer installs.
fn complete(host: Environment) -> Result<Environment> {
    let lacks: Vec<String> = host.lacks().iter().map(ToString::to_string).collect();
    if lacks.is_empty() {
        return Ok(host);
    }
    let python = host.python();
    Err(error::setup(format!(
        "{} lacks {}; `{} -m pip install pyrust-nn` installs what it needs",
        host.folder.display(),
        lacks.join(", "),
        python.display()
    )))
}
