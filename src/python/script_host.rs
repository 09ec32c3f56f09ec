//! The interface through which a running script reports to its caller. `step/host.rs` implements it.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

/// Receives the reports of a script. Errors are raised as exceptions in the script.
pub(crate) trait ScriptHost: Send + Sync {
    /// Facts for session.json, before the script runs: Python's version, those of packages, the GPU.
    fn environment(&self, facts: Map<String, Value>);

    /// Progress: `done` of `total`, and a text to show.
    ///
    /// # Errors
    /// Kind `interrupted`, after Ctrl-C.
    fn progress(&self, done: u64, total: u64, text: &str) -> Result<()>;

    /// One line of metrics, a JSON object.
    fn metric(&self, line: &str) -> Result<()>;

    /// Records a file or model folder that the parameter `name` refers to.
    fn depends_on(&self, name: &str, path: &Path) -> Result<()>;

    /// The prepared data set of the parameter `name`: `dataset_path` or `eval_dataset_path`. Called without the GIL.
    /// `script` are the parameters of a user's own script.
    ///
    /// # Errors
    /// Kind `input` if the parameters name no data set, or if the data is wrong.
    fn dataset(&self, name: &str, script: Option<&Map<String, Value>>) -> Result<Value>;

    /// Publishes the finished folder `made` as the checkpoint `target`.
    fn publish_checkpoint(&self, made: &Path, target: &Path) -> Result<()>;

    /// Notes that the script fails because one of its worker processes ended.
    fn worker_lost(&self);

    /// Shows text of an answer while it is generated.
    fn stream(&self, text: &str);
}
