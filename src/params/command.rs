//! Dataset commands: they take a data set and a model, and are not steps, so they need no session.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::params::interface::Interface;
use crate::params::param::{MODEL, Param};
use crate::params::task::Examples;

/// A dataset command. Each is defined in its own file in `tasks/`.
#[derive(Debug)]
pub struct DatasetCommand {
    /// Name on the command line.
    pub name: &'static str,
    /// Name of the function in Python and Rust.
    pub function: &'static str,
    pub about: &'static str,
    /// Shown below the command's options.
    pub examples: Examples,
    pub params: fn() -> &'static [Param],
    /// The type of the result in Python.
    pub returns: &'static str,
    pub run: RunDatasetCommand,
}

/// Arguments: the given parameters, the interface they came through, and a progress callback. The callback gets the bytes done and the bytes
/// in total, and may stop the work with an error. Returns the result as JSON.
pub type RunDatasetCommand = fn(Map<String, Value>, Interface, &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Value>;

impl DatasetCommand {
    /// All parameters a caller may give: the model and the command's own.
    pub fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        std::iter::once(&MODEL).chain((self.params)())
    }
}
