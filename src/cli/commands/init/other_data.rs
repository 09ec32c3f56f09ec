//! The data sets that another tool's configuration names, as files.

use std::path::Path;

use serde_json::Value;

use crate::data::{Layout, validate_files};
use crate::dataset::entry::Entry;
use crate::dataset::open::{Sources, is_hub_name, paths};
use crate::params::names_of_other_tools::Tool;

/// The files of a configuration's data sets.
#[derive(Debug, Default)]
pub(crate) struct DataFiles {
    pub files: Vec<String>,
    /// mlx-lm's folder also has a file for evaluation.
    pub evaluation: Option<String>,
    pub warnings: Vec<String>,
}

/// The files that `value` names. `dir`: LLaMA-Factory's `dataset_dir`. `config`: the configuration file.
pub(crate) fn data_files(tool: Tool, key: &str, value: &Value, dir: Option<&str>, config: &Path) -> DataFiles {
    let mut found = DataFiles::default();
    let texts: Vec<&str> = match value {
        Value::String(text) => text.split(',').map(str::trim).collect(),
        Value::Array(items) => items.iter().filter_map(|item| item.as_str().or_else(|| item.get("path")?.as_str())).collect(),
        Value::Object(_) => value.get("path").and_then(Value::as_str).into_iter().collect(),
        _ => Vec::new(),
    };
    if texts.is_empty() {
        found.warnings.push(format!("{key}: no file is named; set dataset_path"));
    }
    match tool {
        Tool::LlamaFactory => texts.into_iter().for_each(|name| of_llama_factory(name, dir.unwrap_or("data"), config, &mut found)),
        Tool::MlxLm => texts.into_iter().for_each(|folder| of_mlx(folder, config, &mut found)),
        Tool::Axolotl | Tool::Unsloth => texts.into_iter().for_each(|path| found.add(key, path, config)),
    }
    found.options(key, value);
    found
}

impl DataFiles {
    fn add(&mut self, key: &str, path: &str, config: &Path) {
        let file = Path::new(path).extension().is_some();
        if file || place(path, config).is_some() {
            self.files.push(place(path, config).unwrap_or_else(|| path.to_string()));
        } else if is_hub_name(path) {
            self.files.push(path.to_string());
        } else {
            self.warnings.push(format!("{key}: {path} is neither a file here nor a name on the Hub; give the file as dataset_path"));
        }
    }

    /// Takes what the entries of a list, or a single one, say besides their path.
    fn options(&mut self, key: &str, value: &Value) {
        let entries: Vec<&Value> = value.as_array().map_or_else(|| vec![value], |entries| entries.iter().collect());
        let all_named = entries.len() == self.files.len();
        for (i, entry) in entries.into_iter().enumerate() {
            for (name, value) in entry.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                match (name.as_str(), value.as_str().filter(|_| all_named)) {
                    // The format of the data is recognized.
                    ("path" | "type" | "ds_type", _) => {}
                    ("split" | "name" | "revision", Some(value)) => {
                        self.files[i] = Entry::with_option(&self.files[i], &format!("{name}={value}"));
                    }
                    _ => self.warnings.push(format!("{key}[{i}].{name} = {value}: there is no counterpart")),
                }
            }
        }
    }
}

/// Where a path of a configuration is: in the working directory, or beside the configuration.
fn place(path: &str, config: &Path) -> Option<String> {
    let beside = config.parent().unwrap_or(Path::new("")).join(path);
    [Path::new(path), &beside].into_iter().find(|path| path.exists()).map(|path| path.to_string_lossy().into_owned())
}

/// A name in `dataset_info.json`.
fn of_llama_factory(name: &str, dir: &str, config: &Path, found: &mut DataFiles) {
    let folder = place(dir, config).unwrap_or_else(|| dir.to_string());
    let list = Path::new(&folder).join("dataset_info.json");
    let text = std::fs::read_to_string(&list).unwrap_or_default();
    let known: Value = serde_json::from_str(&text).unwrap_or_default();
    let entry = &known[name];
    match entry["file_name"].as_str() {
        Some(file) => found.files.push(Path::new(&folder).join(file).to_string_lossy().into_owned()),
        None if entry["hf_hub_url"].is_string() => {
            let options =
                [("subset", "name"), ("split", "split")].into_iter().filter_map(|(theirs, ours)| Some((ours, entry[theirs].as_str()?)));
            let hub = entry["hf_hub_url"].as_str().unwrap_or_default().to_string();
            found.files.push(options.fold(hub, |path, (name, value)| Entry::with_option(&path, &format!("{name}={value}"))));
        }
        None if Path::new(name).extension().is_some() => found.add("dataset", name, config),
        None => {
            found.warnings.push(format!("dataset: {name} has no file in {}; give the file as dataset_path", list.display()));
        }
    }
}

/// A folder with `train.jsonl` and `valid.jsonl`.
fn of_mlx(folder: &str, config: &Path, found: &mut DataFiles) {
    let here = place(folder, config);
    let folder = Path::new(here.as_deref().unwrap_or(folder));
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    if folder.is_file() || (here.is_none() && is_hub_name(&folder.to_string_lossy())) {
        found.files.push(folder.to_string_lossy().into_owned());
    } else {
        // `init` says itself that a file does not exist.
        found.files.push(file("train.jsonl"));
        found.evaluation = folder.join("valid.jsonl").is_file().then(|| file("valid.jsonl"));
    }
}

/// The number of conversations in files. `None`: they are not here, not valid, or need Python.
pub(crate) fn count_rows(value: &Value) -> Option<u64> {
    let counts = paths(value).into_iter().map(|path| {
        let sources = Sources::named(std::slice::from_ref(&path), true).ok().filter(|sources| !sources.needs_python())?;
        let counted = validate_files(&sources.files, &Layout::default()).ok()?.conversations;
        Some(Entry::parse(&path).ok()?.max_rows.map_or(counted, |most| most.min(counted)) as u64)
    });
    counts.sum::<Option<u64>>().filter(|count| *count > 0)
}
