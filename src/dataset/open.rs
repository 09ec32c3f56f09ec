//! From names and parameters to a data set: its files, the folder of the model's tokenizer, its options.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::base::progress::Bytes;
use crate::data::{Dataset, NoTransformers, Options};
use crate::params::param::MODEL;
use crate::session::artifact::{ArtifactKind, artifact, downloaded};
use crate::session::names::runs_dir;
use crate::{data, python};

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
        crate::base::progress::clear();
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
    named(paths)?.into_iter().map(|file| if is_foreign(&file) { python::json_lines(&file) } else { Ok(file) }).collect()
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
    let found = artifact(model, runs, "", ArtifactKind::Model)?;
    let folder = PathBuf::from(&found);
    if folder.is_dir() {
        // An adapter may have its base's tokenizer alone.
        return if folder.join("tokenizer.json").is_file() { Ok(folder) } else { python::tokenizer_folder(&found, offline) };
    }
    match downloaded(&found) {
        Some(folder) => {
            debug!("{found} is {}", folder.display());
            Ok(folder)
        }
        None => python::tokenizer_folder(&found, offline),
    }
}
