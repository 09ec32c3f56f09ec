//! Checks a data set without loading weights: problems, statistics, samples and the estimated cost of training.

use std::path::Path;

use crate::base::progress;
use crate::base::progress::Bytes;
use crate::base::{error, files, logging};
use crate::dataset::html;
use crate::dataset::{CheckReport, open, open_evaluation, with_revisions};
use crate::params::command::DatasetCommand;
use crate::params::interface::Interface;
use crate::params::prelude::*;
use crate::params::validate::resolve;
use crate::python::PythonTransformers;

lora_params! {
    [loop_params eval_data_params data_params device_params dataset_params]
    /// Check a data set without loading weights: problems, statistics, samples and the estimated cost of training.
    CheckParams {
        /// Fine-tuning method whose memory, disk space and time are estimated.
        default task: String = "finetune_lora".to_string(), ParamType::Choice(&["finetune_full", "finetune_lora"]), Report;
        /// Number of conversations to show, from the first, with the trained tokens marked.
        default show: u32 = 1, int(0, 1000), Report;
        /// Show these conversations instead, by index from 0.
        unset show_index: Vec<u32> = Vec::new(), ParamType::IntList, Report;
        /// Also write the report to this file as a page for a browser, which needs no network.
        unset html: PathBuf = PathBuf::new(), ParamType::Path, Report;
        /// Estimate the training time by timing two layers of the model's size. This starts Python.
        default probe: bool = false, ParamType::Bool, Report;
    }
}

impl CheckParams {
    /// The defaults with this data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

pub(crate) static COMMAND: DatasetCommand = DatasetCommand {
    name: "check",
    function: "check_dataset",
    about: "Check a data set without loading weights: problems, statistics, samples and the estimated cost of training",
    examples: [
        ("Find the problems of a file, and what training on it would cost:", "pyrust-nn check data.jsonl -m Qwen/Qwen3-0.6B"),
        (
            "For full fine-tuning, with two conversations shown as the model sees them:",
            "pyrust-nn check data.jsonl -m Qwen/Qwen3-0.6B --task finetune_full --show 2",
        ),
    ],
    params: CheckParams::params,
    returns: "CheckReport",
    run: |given, interface, on_progress| Ok(serde_json::to_value(check(given, interface, on_progress)?)?),
};

/// Checks a data set for a model: problems, statistics, samples and the estimated cost of training. No weights are loaded.
///
/// `model` is as for [`crate::prepare_dataset`]. Problems in the data are not an error: they are in the report, whose `ok` is then false.
/// Python starts only for `probe` and in the cases in which `prepare_dataset` needs it.
///
/// # Errors
/// Kind `input` (a file that cannot be read), `usage`, `model`, `setup`, `io`.
pub fn check_dataset(model: &str, params: &CheckParams) -> Result<CheckReport> {
    let mut given = params.given()?;
    given.insert(MODEL.name.into(), model.into());
    check(given, Interface::Rust, &mut |_, _| Ok(()))
}

fn check(given: Map<String, Value>, interface: Interface, on_progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<CheckReport> {
    let params = with_revisions(resolve(COMMAND.name, COMMAND.all_params(), given, interface)?)?;
    let _once = logging::once_scope();
    let dataset = open(&params)?;
    let evaluation = open_evaluation(&params, &dataset)?;
    let page = params["html"].as_str().map(Path::new);
    if let Some(page) = page {
        let read = dataset.files.iter().chain(evaluation.iter().flat_map(|one| &one.files));
        check_page(page, read.map(PathBuf::as_path))?;
    }
    let mut bytes = Bytes::new(COMMAND.name);
    let report = CheckReport::of(&dataset, evaluation.as_ref(), &params, &PythonTransformers, &mut |done, total| {
        bytes.report(done, total);
        on_progress(done, total)
    });
    progress::end();
    let report = report?;
    if let Some(page) = page {
        files::write_whole(page, html::page(&report).as_bytes())?;
    }
    Ok(report)
}

/// Checks before the work that the page can be written and replaces no data.
fn check_page<'a>(page: &Path, mut data: impl Iterator<Item = &'a Path>) -> Result<()> {
    let folder = page.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if page.is_dir() || !folder.is_dir() {
        let what = if page.is_dir() { "is a folder".into() } else { format!("cannot be written: there is no folder {}", folder.display()) };
        return Err(error::usage(format!("html: {} {what}; name a file such as report.html in an existing folder", page.display())));
    }
    let same = |one: &Path| one.canonicalize().is_ok_and(|one| page.canonicalize().is_ok_and(|page| page == one));
    if data.any(same) {
        return Err(error::usage(format!("html: {} is the data set itself, and would be overwritten; name another file", page.display())));
    }
    Ok(())
}
