//! `setup`: finds or creates the Python environment.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::base::error;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::python::environment::Environment;
use crate::python::{environment, host_prefix};

/// Find the Python environment, or create it
#[derive(Args, Debug)]
pub(crate) struct SetupArgs {}

impl SetupArgs {
    pub(crate) fn run(global: &GlobalArgs) -> Result<u8> {
        let found = match host_prefix() {
            Some(prefix) => check_host_packages(environment::of_host(prefix))?,
            None if global.no_setup => environment::find(global.python_env.as_deref())?,
            None => environment::find_or_create(global.python_env.as_deref(), true, global.offline)?,
        };
        if global.json {
            output::json(&json!({"python_env": found.folder, "from": found.from}));
        } else {
            output::line(&format!("Python environment: {} ({})", found.folder.display(), found.from));
        }
        Ok(0)
    }
}

/// Checks the host's packages. If Python is the host, its own installer must install missing ones.
fn check_host_packages(host: Environment) -> Result<Environment> {
    let missing: Vec<String> = host.missing_packages().iter().map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(host);
    }
    let python = host.python();
    Err(error::setup(format!(
        "{} lacks {}; run `{} -m pip install pyrust-nn`",
        host.folder.display(),
        missing.join(", "),
        python.display()
    )))
}
