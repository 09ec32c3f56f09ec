//! `prepare` and `check` as every door calls them: from names and parameters to a model's folder, files and options.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::check::CheckReport;
use crate::data::{self, Dataset, NoTransformers, Options, Prepared};
use crate::logging::debug;
use crate::params::{CheckParams, Door, MODEL, Param, PrepareParams, TaskParams, resolve};
use crate::progress::Bytes;
use crate::resolve::{Wanted, artifact, downloaded};
use crate::session::runs_dir;
use crate::{embed, error};

/// A question about a data set and a model: no step, no session.
#[derive(Debug)]
pub(crate) struct Query {
    pub command: &'static str,
    /// Its name in Python.
    pub function: &'static str,
    pub about: &'static str,
    pub params: fn() -> &'static [Param],
    /// The type of what it gives, in Python.
    pub returns: &'static str,
    pub ask: Ask,
}

/// What was given, from where, and whom to tell of progress; the answer as JSON.
type Ask = fn(Map<String, Value>, Door, &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Value>;

pub(crate) static QUERIES: [Query; 2] = [
    Query {
        command: "prepare",
        function: "prepare_dataset",
        about: "Prepare a data set: rows of token ids and labels as Arrow, kept in the cache",
        params: PrepareParams::params,
        returns: "PreparedDataset",
        ask: |given, door, tell| Ok(serde_json::to_value(prepare(given, door, tell)?)?),
    },
    Query {
        command: "check",
        function: "check_dataset",
        about: "Check a data set before any weight is loaded: faults, figures, samples, and what training will take",
        params: CheckParams::params,
        returns: "CheckReport",
        ask: |given, door, tell| Ok(serde_json::to_value(check(given, door, tell)?)?),
    },
];

/// Prepares a data set for a model: token ids and labels as an Arrow IPC stream in the user's cache.
///
/// `model` is a folder, a session's step, `builtin:tiny` or a hub name. Python starts only for what Rust has not: a model to be made or
/// downloaded, a chat template that was never compared with transformers, Parquet and its like.
///
/// # Errors
/// Kind `input` (faults in the data, all listed), `usage`, `model`, `setup`, `io`.
pub fn prepare_dataset(model: &str, params: &PrepareParams) -> Result<Prepared> {
    let mut given = params.given()?;
    given.insert(MODEL.name.into(), model.into());
    prepare(given, Door::Rust, &mut |_, _| Ok(()))
}

/// As `prepare_dataset`, from what was given at any door; `more` is asked as often as there is progress.
fn prepare(given: Map<String, Value>, door: Door, more: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Prepared> {
    let params = resolve("prepare", std::iter::once(&MODEL).chain(PrepareParams::params()), given, door)?;
    // Where Python is the host it has handlers of its own, and `more` asks it.
    let _handlers = embed::note_signals();
    let dataset = open(&params)?;
    let mut progress = Bytes::new("prepare");
    let prepared = data::prepare_dataset(&dataset, &data::cache_folder(), &embed::PythonTransformers, &mut |done, total| {
        progress.report(done, total);
        more(done, total)
    });
    crate::progress::clear();
    prepared
}

/// Checks a data set for a model: its faults, figures and samples, and what training on it will take. No weight is loaded.
///
/// `model` is as for [`prepare_dataset`]. What is wrong with the data is not an error but stands in the report, whose `ok` is false then.
/// Python starts only for `probe`, and for what `prepare_dataset` needs it for.
///
/// # Errors
/// Kind `input` (a file that cannot be read), `usage`, `model`, `setup`, `io`.
pub fn check_dataset(model: &str, params: &CheckParams) -> Result<CheckReport> {
    let mut given = params.given()?;
    given.insert(MODEL.name.into(), model.into());
    check(given, Door::Rust, &mut |_, _| Ok(()))
}

/// As `check_dataset`, from what was given at any door.
fn check(given: Map<String, Value>, door: Door, more: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<CheckReport> {
    let params = resolve("check", std::iter::once(&MODEL).chain(CheckParams::params()), given, door)?;
    let dataset = open(&params)?;
    let mut progress = Bytes::new("check");
    let report = CheckReport::of(&dataset, &params, &embed::PythonTransformers, &mut |done, total| {
        progress.report(done, total);
        more(done, total)
    });
    crate::progress::clear();
    report
}

/// Prepares what a step will train on, if Rust alone can; else only checks the files. The script asks again and finds it.
/// `name`: the parameter that has the paths, `dataset_path` or `eval_dataset_path`.
pub(crate) fn prepare_ahead(params: &Map<String, Value>, name: &str, model: &str) -> Result<Vec<PathBuf>> {
    let files = named(&paths(&params[name]))?;
    if files.iter().any(|file| is_foreign(file)) {
        return Ok(files);
    }
    let folder = Path::new(model);
    if folder.is_dir() && data::is_native(folder) {
        let mut options = Options::of(params)?;
        if name == "eval_dataset_path" {
            options.eval_split = 0.0;
        }
        let dataset = Dataset { files: files.clone(), model_folder: folder.to_path_buf(), options };
        let mut progress = Bytes::new("prepare");
        data::prepare_dataset(&dataset, &data::cache_folder(), &NoTransformers, &mut |done, total| {
            progress.report(done, total);
            Ok(())
        })?;
        crate::progress::clear();
    } else {
        data::check_files(&files)?;
    }
    Ok(files)
}

/// The data set that resolved parameters name.
pub(crate) fn open(params: &Map<String, Value>) -> Result<Dataset> {
    let model = params[MODEL.name].as_str().unwrap_or_default();
    let offline = params.get("offline") == Some(&Value::Bool(true));
    let runs = runs_dir(params.get("runs_dir").and_then(Value::as_str).map(Path::new));
    let files = files(&paths(&params["dataset_path"]))?;
    Ok(Dataset { files, model_folder: model_folder(model, &runs, offline)?, options: Options::of(params)? })
}

fn paths(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(ToString::to_string).collect(),
        path => path.as_str().map(ToString::to_string).into_iter().collect(),
    }
}

/// The files behind paths and patterns; what only the `datasets` library reads becomes JSON lines in the cache.
fn files(paths: &[String]) -> Result<Vec<PathBuf>> {
    named(paths)?.into_iter().map(|file| if is_foreign(&file) { embed::json_lines(&file) } else { Ok(file) }).collect()
}

/// The files behind paths and patterns; what the `datasets` library must read may be a folder, and is not looked at here.
fn named(paths: &[String]) -> Result<Vec<PathBuf>> {
    let whole = |path: &String| is_foreign(Path::new(path)) && !data::is_pattern(path);
    if !paths.iter().any(whole) {
        return data::expand(paths);
    }
    let files = paths.iter().map(|path| if whole(path) { Ok(vec![PathBuf::from(path)]) } else { data::expand(&[path]) });
    Ok(files.collect::<Result<Vec<_>>>()?.concat())
}

/// Whether the `datasets` library must read it: Parquet, Arrow, a folder that it saved.
fn is_foreign(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    matches!(extension.as_deref(), Some("parquet" | "arrow"))
        || ["dataset_info.json", "dataset_dict.json"].iter().any(|name| path.join(name).is_file())
}

/// The folder that has a model's tokenizer. Python is asked only for what is not on this machine's disk under a known name.
fn model_folder(model: &str, runs: &Path, offline: bool) -> Result<PathBuf> {
    if let Some(step) = model.strip_prefix('@') {
        return Err(error::usage(format!("{model} is a step of a pipeline, and this belongs to none; give <session>/{step}")));
    }
    let found = artifact(model, runs, "", Wanted::Model)?;
    let folder = PathBuf::from(&found);
    if folder.is_dir() {
        // An adapter may have its base's tokenizer alone.
        return if folder.join("tokenizer.json").is_file() { Ok(folder) } else { embed::tokenizer_folder(&found, offline) };
    }
    match downloaded(&found) {
        Some(folder) => {
            debug!("{found} is {}", folder.display());
            Ok(folder)
        }
        None => embed::tokenizer_folder(&found, offline),
    }
}
