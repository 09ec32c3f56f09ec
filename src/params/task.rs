//! The definition of a task: name, input, parameters, script.

use std::path::Path;

use anyhow::Result;

use crate::base::similar_path::or_similar;
use crate::base::{assets, error};
use crate::params::interface::Interface;
use crate::params::param::Param;

/// The names of all tasks, for parts that come before `tasks/`. A test compares them.
pub const TASK_NAMES: [&str; 11] = [
    "finetune_full",
    "finetune_lora",
    "flatten",
    "merge",
    "quantize_model",
    "compute_imatrix",
    "convert_model_to_gguf",
    "convert_lora_to_gguf",
    "verify",
    "inference",
    "script",
];

/// Two example commands, each with what it does.
pub type Examples = [(&'static str, &'static str); 2];

/// A task. Each is defined in its own file in `tasks/`.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Name in summaries, in pipeline.toml and, with dashes, on the command line.
    pub name: &'static str,
    /// Name of the function in Python and Rust.
    pub function: &'static str,
    /// One line of description, for lists of tasks.
    pub about: &'static str,
    /// Shown below the command's options.
    pub examples: Examples,
    /// What the task works on: the second argument in Python and Rust.
    pub input: &'static Param,
    pub params: fn() -> &'static [Param],
    /// File in `scripts/`; `None` if the user provides the script.
    pub script: Option<&'static str>,
}

impl Task {
    /// Name of the command: dashes instead of underscores.
    pub fn command(&self) -> String {
        Interface::Cli.spell_task(self.name)
    }

    /// All parameters a caller may give: the input and the task's own.
    pub fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        std::iter::once(self.input).chain((self.params)())
    }

    /// Whether the task has a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.all_params().any(|param| param.name == name)
    }

    /// The script's source: a built-in script, or the user's file, whose path is the input.
    ///
    /// # Errors
    /// Kind `usage`: not a .py file. Kind `input`: it cannot be read.
    pub fn source(&self, input: &str) -> Result<String> {
        if let Some(script) = self.script {
            return Ok(assets::text(&format!("scripts/{script}")).unwrap_or_default().to_string());
        }
        let path = Path::new(input);
        if path.extension().is_none_or(|extension| extension != "py") {
            return Err(error::usage(format!("script {input} is not a .py file; give a Python file with run(params, session)")));
        }
        std::fs::read_to_string(path).map_err(|cause| {
            let is_script = |path: &Path| path.extension().is_some_and(|extension| extension == "py");
            let why =
                if cause.kind() == std::io::ErrorKind::NotFound { "does not exist".into() } else { format!("cannot be read: {cause}") };
            error::input(format!("script {input} {why}; {}", or_similar(path, &is_script, "check the path")))
        })
    }
}
