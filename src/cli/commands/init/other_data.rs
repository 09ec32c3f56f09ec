//! The data sets that another tool's configuration names, as files.

use std::io::BufRead;
use std::path::Path;

use serde_json::Value;

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
    for (i, entry) in value.as_array().into_iter().flatten().enumerate() {
        for (name, value) in entry.as_object().into_iter().flatten() {
            // The format of the data is recognized.
            if !["path", "type", "ds_type"].contains(&name.as_str()) && !value.is_null() {
                found.warnings.push(format!("{key}[{i}].{name} = {value}: there is no counterpart"));
            }
        }
    }
    found
}

impl DataFiles {
    fn add(&mut self, key: &str, path: &str, config: &Path) {
        let file = Path::new(path).extension().is_some();
        if file || place(path, config).is_some() {
            self.files.push(place(path, config).unwrap_or_else(|| path.to_string()));
        } else {
            self.warnings.push(format!("{key}: {path} is not a file here; download it, and give the file as dataset_path"));
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
    match known[name]["file_name"].as_str() {
        Some(file) => found.files.push(Path::new(&folder).join(file).to_string_lossy().into_owned()),
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
    if folder.is_file() {
        found.files.push(folder.to_string_lossy().into_owned());
    } else {
        if !folder.join("train.jsonl").is_file() {
            found.warnings.push(format!("data: there is no {}; if this is a data set of the Hub, download it", file("train.jsonl")));
        }
        found.files.push(file("train.jsonl"));
        found.evaluation = folder.join("valid.jsonl").is_file().then(|| file("valid.jsonl"));
    }
}

/// The number of conversations in JSON Lines files. `None` if another format, or not there.
pub(crate) fn count_rows(paths: &Value) -> Option<u64> {
    let paths: Vec<&str> = paths.as_str().into_iter().chain(paths.as_array().into_iter().flatten().filter_map(Value::as_str)).collect();
    let counts = paths.into_iter().map(|path| {
        let lines = path.ends_with(".jsonl").then(|| std::fs::File::open(path).ok()).flatten()?;
        Some(std::io::BufReader::new(lines).split(b'\n').map_while(Result::ok).filter(|line| !line.trim_ascii().is_empty()).count() as u64)
    });
    counts.sum::<Option<u64>>().filter(|count| *count > 0)
}
