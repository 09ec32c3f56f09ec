//! Prepares a data set: rows of token ids and labels, stored in the cache.

use crate::base::progress::Bytes;
use crate::base::{cache, logging, progress};
use crate::data::Prepared;
use crate::dataset::{open, with_revisions};
use crate::params::command::DatasetCommand;
use crate::params::interface::Interface;
use crate::params::prelude::*;
use crate::params::validate::resolve;
use crate::python::PythonTransformers;
use crate::{data, python};

data_params! {
    [dataset_params]
    /// Prepare a data set: rows of token ids and labels, stored in the cache.
    PrepareParams {
    }
}

impl PrepareParams {
    /// The defaults with this data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static COMMAND: DatasetCommand = DatasetCommand {
    name: "prepare",
    function: "prepare_dataset",
    about: "Prepare a data set: rows of token ids and labels as Arrow, stored in the cache",
    examples: [
        ("Prepare a file's rows for a model:", "pyrust-nn prepare data.jsonl -m Qwen/Qwen3-0.6B"),
        (
            "Prepare several files, and leave out samples that are too long:",
            "pyrust-nn prepare \"data/*.jsonl\" -m Qwen/Qwen3-0.6B --overlong drop",
        ),
    ],
    params: PrepareParams::params,
    returns: "PreparedDataset",
    run: |given, interface, on_progress| Ok(serde_json::to_value(prepare(given, interface, on_progress)?)?),
};

/// Prepares a data set for a model: token ids and labels as an Arrow IPC stream in the user's cache.
///
/// `model` is a folder, a session's step, `builtin:tiny` or a hub name. Python starts only for what Rust cannot do: creating or downloading
/// a model, a chat template that has not been compared with transformers yet, Parquet and similar formats.
///
/// # Errors
/// Kind `input` (problems in the data, all listed), `usage`, `model`, `setup`, `io`.
pub fn prepare_dataset(model: &str, params: &PrepareParams) -> Result<Prepared> {
    let mut given = params.given()?;
    given.insert(MODEL.name.into(), model.into());
    prepare(given, Interface::Rust, &mut |_, _| Ok(()))
}

fn prepare(given: Map<String, Value>, interface: Interface, on_progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Prepared> {
    let params = with_revisions(resolve(COMMAND.name, COMMAND.all_params(), given, interface)?)?;
    // If Python is the host, it has its own signal handlers, which `on_progress` checks.
    let _handlers = python::note_signals();
    let _once = logging::once_scope();
    let dataset = open(&params)?;
    dataset.warnings.iter().for_each(|warning| warning!("{warning}"));
    let mut bytes = Bytes::new(COMMAND.name);
    let prepared = data::prepare_dataset(&dataset, &cache::folder(), &PythonTransformers, &mut |done, total| {
        bytes.report(done, total);
        on_progress(done, total)
    });
    progress::end();
    prepared
}
