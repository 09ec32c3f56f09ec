//! Opens a data set by parameters: its files, the folder of the model's tokenizer, its options.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_128;

use crate::base::similar_path::or_similar;
use crate::base::{cache, error, files};
use crate::data::{DataPart, Dataset, Options};
use crate::dataset::added_tokens::with_added_tokens;
use crate::dataset::entry::Entry;
use crate::dataset::tokenizer::tokenizer_folder;
use crate::estimate::{embedding_rows, positions, read_config};
use crate::params::param::MODEL;
use crate::session::artifact::{ArtifactKind, resolve_artifact};
use crate::session::names::runs_dir;
use crate::{data, python};

/// The parameters that name a data set.
pub(crate) const DATASETS: [&str; 2] = ["dataset_path", "eval_dataset_path"];

/// For the script of a conversion: the data set that its parameter `imatrix` names. Rows have the default parameters; too long ones are cut.
pub(crate) const IMATRIX_DATASET: &str = "imatrix_dataset";

/// The data set of resolved parameters.
pub(crate) fn open(params: &Map<String, Value>) -> Result<Dataset> {
    let offline = params.get("offline") == Some(&Value::Bool(true));
    let options = Options::of(params)?;
    let sources = Sources::named(&paths(&params["dataset_path"]), offline)?.converted(&options)?;
    let folder = with_added_tokens(&own_folder(params)?, &added_tokens(params))?;
    Ok(sources.dataset(folder, options))
}

/// The folder of the model of resolved parameters, or of an adapter with its own tokenizer.
pub(crate) fn own_folder(params: &Map<String, Value>) -> Result<PathBuf> {
    let runs = runs_dir(params.get("runs_dir").and_then(Value::as_str).map(Path::new));
    model_folder(params[MODEL.name].as_str().unwrap_or_default(), &runs, params.get("offline") == Some(&Value::Bool(true)))
}

/// The parameter `add_tokens`.
pub(crate) fn added_tokens(params: &Map<String, Value>) -> Vec<String> {
    params.get("add_tokens").map(paths).unwrap_or_default()
}

/// The data set for evaluation beside `dataset`, if the parameters name one.
pub(crate) fn open_evaluation(params: &Map<String, Value>, dataset: &Dataset) -> Result<Option<Dataset>> {
    let paths = paths(&params["eval_dataset_path"]);
    if paths.is_empty() {
        return Ok(None);
    }
    let options = Options { eval_split: 0.0, ..dataset.options.clone() };
    let sources = Sources::named(&paths, params.get("offline") == Some(&Value::Bool(true)))?.converted(&options)?;
    Ok(Some(sources.dataset(dataset.model_folder.clone(), options)))
}

/// The paths of a parameter whose value is one path or a list.
pub(crate) fn paths(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(ToString::to_string).collect(),
        path => path.as_str().map(ToString::to_string).into_iter().collect(),
    }
}

/// The files of a data set, before and after conversion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub files: Vec<PathBuf>,
    names: Vec<PathBuf>,
    parts: Vec<DataPart>,
    /// The split of each file, if it is given.
    splits: Vec<Option<String>>,
    warnings: Vec<String>,
}

impl Sources {
    /// The files of paths and patterns. A path that Arrow must read may be a folder; it is not opened here. Archives are unpacked, and
    /// standard input is stored, in the cache.
    pub(crate) fn named(paths: &[String], offline: bool) -> Result<Sources> {
        let mut sources = Sources::default();
        for path in paths {
            let entry = Entry::parse(path)?;
            let mut files = Vec::new();
            let found = entry_files(&entry, offline)?;
            let hub = is_on_hub(&entry);
            for file in found {
                if file.is_file() && data::is_zip(&file) {
                    files.extend(data::unzip(&file, &cache::folder())?);
                } else {
                    files.push(file);
                }
            }
            sources.names.extend(files.iter().map(|file| if hub { PathBuf::from(&entry.path) } else { shown(file) }));
            sources.parts.push(DataPart { files: files.len(), weight: entry.weight, max_rows: entry.max_rows });
            // A data set of the hub is stored without its other splits.
            sources.splits.extend(files.iter().map(|_| entry.split.clone().filter(|_| !hub)));
            sources.files.extend(files);
        }
        if sources.files.is_empty() {
            data::expand(&[""; 0])?;
        }
        sources.warnings = data::repeated(&sources.files);
        Ok(sources)
    }

    /// What Arrow must read is converted to JSON lines in the cache.
    pub(crate) fn converted(mut self, options: &Options) -> Result<Sources> {
        for (file, split) in self.files.iter_mut().zip(&self.splits) {
            if is_foreign(file) {
                let (converted, unused) = python::json_lines(file, split.as_deref(), &options.layout.known_columns())?;
                self.warnings.extend(data::unused_columns(file, &unused));
                *file = converted;
            }
        }
        Ok(self)
    }

    pub(crate) fn needs_python(&self) -> bool {
        self.files.iter().any(|file| is_foreign(file))
    }

    pub(crate) fn dataset(self, model_folder: PathBuf, mut options: Options) -> Dataset {
        options.embedding_rows = embedding_rows(&model_folder);
        options.positions = read_config(&model_folder).as_ref().and_then(positions);
        Dataset { files: self.files, names: self.names, parts: self.parts, warnings: self.warnings, label: "", model_folder, options }
    }
}

/// Checks the entries of a parameter and that their files exist. Opens, downloads and converts nothing.
///
/// # Errors
/// Kind `input`: a missing file, or one that cannot be a data set. Kind `usage`: a wrong option of an entry.
pub(crate) fn check_paths(value: &Value, offline: bool) -> Result<()> {
    paths(value).iter().try_for_each(|path| locate(&Entry::parse(path)?, offline).map(drop))
}

/// What an entry names.
enum Located {
    StandardInput,
    Files(Vec<PathBuf>),
    Hub,
}

fn entry_files(entry: &Entry, offline: bool) -> Result<Vec<PathBuf>> {
    Ok(match locate(entry, offline)? {
        Located::StandardInput => vec![standard_input()?],
        Located::Files(files) => files,
        Located::Hub => {
            vec![python::hub_dataset(&entry.path, [entry.name.as_deref(), entry.split.as_deref(), entry.revision.as_deref()])?]
        }
    })
}

fn locate(entry: &Entry, offline: bool) -> Result<Located> {
    let path = Path::new(&entry.path);
    if entry.path == "-" {
        return Ok(Located::StandardInput);
    }
    if is_foreign(path) && !data::is_pattern(&entry.path) {
        return if path.exists() { Ok(Located::Files(vec![path.to_path_buf()])) } else { Err(data::missing(path)) };
    }
    if is_on_hub(entry) {
        if offline {
            let fix = or_similar(path, &|path| path.is_file(), "check the path, or leave offline out");
            return Err(error::input(format!(
                "there is no data set {} here, and offline forbids looking for it on the Hugging Face hub; {fix}",
                entry.path
            )));
        }
        return Ok(Located::Hub);
    }
    if let Some(option) = [("name", &entry.name), ("revision", &entry.revision)].iter().find(|(_, value)| value.is_some()) {
        return Err(error::usage(format!(
            "data set {} is a file, and {} is only for data sets of the hub; remove it",
            entry.path, option.0
        )));
    }
    if let Some(split) = &entry.split {
        let what = "a split is only for folders of the datasets library and data sets of the hub";
        return Err(error::usage(format!("data set {}: {what}; remove split={split}", entry.path)));
    }
    data::expand(&[&entry.path]).map(Located::Files)
}

/// Parameters with the present revision of each data set of the hub, so that the step's record says what it read, and a
/// resumed step reads the same. Others stay as they are.
///
/// # Errors
/// Kind `input`: there is no such data set. Kind `usage`: an entry is invalid.
pub(crate) fn with_revisions(mut params: Map<String, Value>) -> Result<Map<String, Value>> {
    if params.get("offline") == Some(&Value::Bool(true)) {
        return Ok(params);
    }
    for name in DATASETS {
        let Some(value) = params.get_mut(name) else { continue };
        let texts = match value {
            Value::Array(items) => items.iter_mut().collect(),
            one => vec![one],
        };
        for text in texts {
            let Some(given) = text.as_str() else { continue };
            let entry = Entry::parse(given)?;
            if is_on_hub(&entry) && !entry.revision.as_deref().is_some_and(is_commit) {
                let revision = python::hub_revision(&entry.path, entry.revision.as_deref())?;
                info!("data set {} is at revision {revision} of the hub", entry.path);
                *text = Entry::at_revision(given, &revision).into();
            }
        }
    }
    Ok(params)
}

/// Whether a revision is a commit, which never changes.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether an entry names a data set of the hub.
fn is_on_hub(entry: &Entry) -> bool {
    let path = Path::new(&entry.path);
    is_hub_name(&entry.path) && !is_foreign(path) && !path.exists()
}

/// The ends of the names of files that a data set may have, besides folders.
const FILE_ENDS: [&str; 9] = [".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".gz", ".zst", ".zip", ".txt"];

/// Whether a value that may name something else is a data set, by the ends of file names.
pub(crate) fn names_dataset(value: &str) -> bool {
    Entry::parse(value).is_ok_and(|entry| is_foreign(Path::new(&entry.path)) || has_file_end(&entry.path))
}

fn has_file_end(path: &str) -> bool {
    FILE_ENDS.iter().any(|end| path.to_lowercase().ends_with(end))
}

/// `owner/name`, and no name of a file.
pub(crate) fn is_hub_name(path: &str) -> bool {
    let valid = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    path.split_once('/').is_some_and(|(owner, name)| valid(owner) && valid(name)) && !has_file_end(path)
}

/// Standard input as a file in the cache, named by its content. It is read once.
fn standard_input() -> Result<PathBuf> {
    static STORED: OnceLock<PathBuf> = OnceLock::new();
    if let Some(stored) = STORED.get() {
        return Ok(stored.clone());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|cause| error::input(format!("standard input cannot be read: {cause}")))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(error::input("standard input is empty; pipe a data set into it, or give a file instead of -"));
    }
    let path = cache::folder().join("stdin").join(format!("{:032x}.json", xxh3_128(&bytes)));
    while !cache::hold(&path) {
        let folder = cache::folder().join("stdin");
        files::create_folders(&folder).with_context(|| format!("the cache {} cannot be written; set PYRUST_NN_CACHE", folder.display()))?;
        files::write_whole(&path, &bytes)?;
    }
    Ok(STORED.get_or_init(|| path).clone())
}

/// The name of a file for the user: those unpacked or stored in the cache have none of their own there.
fn shown(file: &Path) -> PathBuf {
    let cache = cache::folder();
    if let Ok(unpacked) = file.strip_prefix(cache.join("unzipped")) {
        return unpacked.components().skip(1).collect();
    }
    if file.starts_with(cache.join("stdin")) { PathBuf::from("standard input") } else { file.to_path_buf() }
}

/// Whether Arrow must read a path: Parquet, Arrow, Feather, or a folder that the `datasets` library saved.
pub(crate) fn is_foreign(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    matches!(extension.as_deref(), Some("parquet" | "arrow" | "feather" | "ipc"))
        || ["dataset_info.json", "dataset_dict.json", "state.json"].iter().any(|name| path.join(name).is_file())
}

/// The folder with the model's tokenizer.
fn model_folder(model: &str, runs: &Path, offline: bool) -> Result<PathBuf> {
    tokenizer_folder(&resolve_artifact(model, runs, "", ArtifactKind::Model)?, offline)
}
