//! What a task is: a name, what it works on, its parameters, its script.

use std::path::Path;

use anyhow::Result;

use crate::base::{assets, error};
use crate::params::param::Param;

/// A task. Each is defined in its own file of `tasks/`.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// In summaries, pipeline.toml and, with dashes, on the command line.
    pub name: &'static str,
    /// Its function in Python and Rust.
    pub function: &'static str,
    /// One line for lists of tasks.
    pub about: &'static str,
    /// What it works on: the second argument in Python and Rust.
    pub subject: &'static Param,
    pub params: fn() -> &'static [Param],
    /// Its file in `scripts/`; None where the user brings the script.
    pub script: Option<&'static str>,
}

impl Task {
    /// As a command: dashes for underscores.
    pub fn command(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The subject and the parameters: everything that a caller may name.
    pub fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        std::iter::once(self.subject).chain((self.params)())
    }

    /// Whether the task has a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.all_params().any(|param| param.name == name)
    }

    /// The script's text: ours by its name, the user's from the file that is the subject.
    ///
    /// # Errors
    /// Kind `usage`: not a .py file. Kind `input`: it cannot be read.
    pub fn source(&self, subject: &str) -> Result<String> {
        if let Some(script) = self.script {
            return Ok(assets::text(&format!("scripts/{script}")).unwrap_or_default().to_string());
        }
        let path = Path::new(subject);
        if path.extension().is_none_or(|extension| extension != "py") {
            return Err(error::usage(format!("script {subject} is not a .py file; give a Python file with run(params, session)")));
        }
        std::fs::read_to_string(path).map_err(|cause| error::input(format!("script {subject} cannot be read: {cause}; check the path")))
    }
}
