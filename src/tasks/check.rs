//! Check a data set before any weight is loaded: its faults, figures, samples, and what training will take.

use crate::base::progress;
use crate::base::progress::Bytes;
use crate::dataset::{CheckReport, open};
use crate::params::command::DatasetCommand;
use crate::params::interface::Interface;
use crate::params::prelude::*;
use crate::params::validate::resolve;
use crate::python::PythonTransformers;

lora_params! {
    [loop_params data_params device_params dataset_params]
    /// Check a data set before any weight is loaded: its faults, figures, samples, and what training will take.
    CheckParams {
        /// The way of fine-tuning whose memory, disk and time are estimated.
        default task: String = "finetune_lora".to_string(), Kind::Choice(&["finetune_full", "finetune_lora"]);
        /// How many conversations to show with what is trained on: the first ones.
        default show: u32 = 1, int(0, 1000);
        /// Conversations to show instead, by their index, from 0.
        unset show_index: Vec<u32> = Vec::new(), Kind::IntList;
        /// Also time two layers of the model's shape, which starts Python, and estimate how long training takes.
        default probe: bool = false, Kind::Bool;
    }
}

impl CheckParams {
    /// Defaults, and the data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static COMMAND: DatasetCommand = DatasetCommand {
    name: "check",
    function: "check_dataset",
    about: "Check a data set before any weight is loaded: faults, figures, samples, and what training will take",
    params: CheckParams::params,
    returns: "CheckReport",
    run: |given, interface, on_progress| Ok(serde_json::to_value(check(given, interface, on_progress)?)?),
};

/// Checks a data set for a model: its faults, figures and samples, and what training on it will take. No weight is loaded.
///
/// `model` is as for [`crate::prepare_dataset`]. What is wrong with the data is not an error but stands in the report, whose `ok` is
/// false then. Python starts only for `probe`, and for what `prepare_dataset` needs it for.
///
/// # Errors
/// Kind `input` (a file that cannot be read), `usage`, `model`, `setup`, `io`.
pub fn check_dataset(model: &str, params: &CheckParams) -> Result<CheckReport> {
    let mut given = params.given()?;
    given.insert(MODEL.name.into(), model.into());
    check(given, Interface::Rust, &mut |_, _| Ok(()))
}

fn check(given: Map<String, Value>, interface: Interface, on_progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<CheckReport> {
    let params = resolve(COMMAND.name, COMMAND.all_params(), given, interface)?;
    let dataset = open(&params)?;
    let mut bytes = Bytes::new(COMMAND.name);
    let report = CheckReport::of(&dataset, &params, &PythonTransformers, &mut |done, total| {
        bytes.report(done, total);
        on_progress(done, total)
    });
    progress::clear();
    report
}
