//! Commands about a data set and a model that are no steps: they need no session.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::params::interface::Interface;
use crate::params::param::{MODEL, Param};

/// A command about a data set. Each is defined in its own file of `tasks/`.
#[derive(Debug)]
pub struct DatasetCommand {
    /// On the command line.
    pub name: &'static str,
    /// Its function in Python and Rust.
    pub function: &'static str,
    pub about: &'static str,
    pub params: fn() -> &'static [Param],
    /// The type of its answer, in Python.
    pub returns: &'static str,
    pub run: Run,
}

/// Takes what was given, through which interface, and a function that is told bytes done and bytes in all and may end the work with an
/// error; gives the answer as JSON.
pub type Run = fn(Map<String, Value>, Interface, &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Value>;

impl DatasetCommand {
    /// The model and the parameters: everything that a caller may name.
    pub fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        std::iter::once(&MODEL).chain((self.params)())
    }
}
