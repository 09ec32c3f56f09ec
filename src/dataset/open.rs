//! Opens a data set by parameters: its files, the folder of the model's tokenizer, its options.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::data::{Dataset, Options};
use crate::dataset::tokenizer::tokenizer_folder;
use crate::params::param::MODEL;
use crate::session::artifact::{ArtifactKind, resolve_artifact};
use crate::session::names::runs_dir;
use crate::{data, python};

/// The data set of resolved parameters.
pub(crate) fn open(params: &Map<String, Value>) -> Result<Dataset> {
    let model = params[MODEL.name].as_str().unwrap_or_default();
    let offline = params.get("offline") == Some(&Value::Bool(true));
    let runs = runs_dir(params.get("runs_dir").and_then(Value::as_str).map(Path::new));
    let files = files(&paths(&params["dataset_path"]))?;
    Ok(Dataset { files, model_folder: model_folder(model, &runs, offline)?, options: Options::of(params)? })
}

/// The paths of a parameter whose value is one path or a list.
pub(crate) fn paths(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(ToString::to_string).collect(),
        path => path.as_str().map(ToString::to_string).into_iter().collect(),
    }
}

/// The files of paths and patterns. What only the `datasets` library can read is converted to JSON lines in the cache.
pub(crate) fn files(paths: &[String]) -> Result<Vec<PathBuf>> {
    named(paths)?.into_iter().map(|file| if is_foreign(&file) { python::json_lines(&file) } else { Ok(file) }).collect()
}

/// The files of paths and patterns. A path that the `datasets` library must read may be a folder; it is not opened here.
pub(crate) fn named(paths: &[String]) -> Result<Vec<PathBuf>> {
    let whole = |path: &String| is_foreign(Path::new(path)) && !data::is_pattern(path);
    if !paths.iter().any(whole) {
        return data::expand(paths);
    }
    let files = paths.iter().map(|path| if whole(path) { Ok(vec![PathBuf::from(path)]) } else { data::expand(&[path]) });
    Ok(files.collect::<Result<Vec<_>>>()?.concat())
}

/// Whether the `datasets` library must read a path: Parquet, Arrow, or a folder that it saved.
pub(crate) fn is_foreign(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    matches!(extension.as_deref(), Some("parquet" | "arrow"))
        || ["dataset_info.json", "dataset_dict.json"].iter().any(|name| path.join(name).is_file())
}

/// The folder with the model's tokenizer.
fn model_folder(model: &str, runs: &Path, offline: bool) -> Result<PathBuf> {
    if let Some(step) = model.strip_prefix('@') {
        return Err(error::usage(format!(
            "{model} names a step of a pipeline, but this command is not part of one; give <session>/{step}"
        )));
    }
    tokenizer_folder(&resolve_artifact(model, runs, "", ArtifactKind::Model)?, offline)
}
