//! What a running script tells whoever started it. A session's step implements it; so can another rank, a test or a server.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

/// Takes what a script tells. An error raises in the script.
pub(crate) trait StepHost: Send + Sync {
    /// How far the step is: `done` of `total`, and what else is worth showing.
    ///
    /// # Errors
    /// Kind `interrupted`, after Ctrl-C.
    fn progress(&self, done: u64, total: u64, text: &str) -> Result<()>;

    /// One line of metrics, a JSON object.
    fn metric(&self, line: &str) -> Result<()>;

    /// A file or a model's folder that the parameter `name` stands for.
    fn depends_on(&self, name: &str, path: &Path) -> Result<()>;

    /// The prepared data set of the parameter `name`, `dataset_path` or `eval_dataset_path`. Called without the interpreter's lock.
    /// `script`: the parameters of a user's own script.
    ///
    /// # Errors
    /// Kind `input` where the parameters name none, or where the data is wrong.
    fn dataset(&self, name: &str, script: Option<&Map<String, Value>>) -> Result<Value>;

    /// A finished folder is to become the checkpoint `target`.
    fn publish_checkpoint(&self, made: &Path, target: &Path) -> Result<()>;

    /// Text of an answer as it is generated.
    fn stream(&self, text: &str);
}
