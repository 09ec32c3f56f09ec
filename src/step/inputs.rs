//! `<step>/begun.json`: what a step was begun with, kept from its first moment on, so that it can be resumed after any end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{error, files, hashes, signals};

/// The file's name in a step's folder and in a checkpoint.
pub const FILE: &str = "begun.json";

/// Between two looks whether hashes are there or a signal has come.
const POLL: Duration = Duration::from_millis(2);

/// Parameters that say where and how a step runs, not what comes of it.
const ABOUT_THE_RUN: [&str; 5] = ["step", "overwrite", "dry_run", "offline", "runs_dir"];

/// A step's beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub task: String,
    /// Every parameter as it was checked, before any script decided what was left open.
    pub params: Map<String, Value>,
    /// The working directory, which relative paths start from.
    pub cwd: PathBuf,
    pub version: String,
    /// By parameter (or model), the files that the step depends on.
    pub inputs: BTreeMap<String, Files>,
}

/// A file as it was: absolute path to size and hash.
pub type Files = BTreeMap<PathBuf, Input>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub bytes: u64,
    /// None while it is being computed.
    pub sha256: Option<String>,
}

impl Begun {
    pub(crate) fn new(task: &str, params: &Map<String, Value>) -> Begun {
        Begun {
            task: task.to_string(),
            params: params.clone(),
            cwd: std::env::current_dir().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            inputs: BTreeMap::new(),
        }
    }

    /// Reads `<folder>/begun.json`; nothing where there is none.
    pub fn read(folder: &Path) -> Result<Option<Begun>> {
        let path = folder.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
                error::input(format!("{} is damaged ({cause}), so the step cannot be resumed; run it again with overwrite", path.display()))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// The parameters in which two maps differ: `learning_rate (was 0.001, is 0.1)`.
    pub(crate) fn changed_params(&self, now: &Map<String, Value>) -> Vec<String> {
        let null = Value::Null;
        let names = self.params.keys().chain(now.keys().filter(|name| !self.params.contains_key(*name)));
        names
            .filter(|name| !ABOUT_THE_RUN.contains(&name.as_str()))
            .filter_map(|name| {
                let (old, new) = (self.params.get(name).unwrap_or(&null), now.get(name).unwrap_or(&null));
                (old != new).then(|| format!("{name} (was {old}, is {new})"))
            })
            .collect()
    }

    /// Refuses a step whose files are not those that it was begun with.
    pub(crate) fn check_inputs(&self) -> Result<()> {
        for (name, known) in &self.inputs {
            for (path, was) in known {
                let what = match std::fs::metadata(path) {
                    Err(_) => "is gone",
                    Ok(now) if now.len() != was.bytes => "has another size than when the step was begun",
                    Ok(_) => continue,
                };
                return Err(changed(name, &format!("{} {what}", path.display())));
            }
            let hashed = known.iter().filter(|(_, was)| was.sha256.is_some()).map(|(path, _)| path.clone());
            let mut other = None;
            hashes::each_file(hashed, &signals::check, &mut |path, hash| {
                if known[path].sha256.as_deref() != Some(hash) {
                    other = Some(path.to_path_buf());
                }
            })?;
            if let Some(path) = other {
                return Err(changed(name, &format!("{} has another content (SHA-256) than when the step was begun", path.display())));
            }
        }
        Ok(())
    }
}

fn changed(name: &str, what: &str) -> anyhow::Error {
    error::input(format!(
        "the step cannot be resumed, {name} has changed: {what}; put it back as it was, or run the step anew with overwrite"
    ))
}

/// Keeps a running step's begun.json: names of files at once, their hashes as threads of its own have computed them.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    begun: Arc<Mutex<Begun>>,
    /// Put to false, the threads end soon: a step that is interrupted does not wait for gigabytes.
    wanted: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Recorder {
    /// Writes begun.json into the step's folder.
    pub(crate) fn begin(folder: &Path, begun: Begun) -> Result<Recorder> {
        let path = folder.join(FILE);
        files::write_json(&path, &begun)?;
        Ok(Recorder { path, begun: Arc::new(Mutex::new(begun)), wanted: Arc::new(AtomicBool::new(true)), threads: Mutex::default() })
    }

    /// Notes the files, or a model's folder, that a parameter stands for. A resumed step refuses others than it began with.
    pub(crate) fn add(&self, name: &str, paths: &[PathBuf]) -> Result<()> {
        let found: Files = paths
            .iter()
            .flat_map(|path| listed(path))
            .filter_map(|file| {
                let bytes = file.metadata().ok()?.len();
                Some((file, Input { bytes, sha256: None }))
            })
            .collect();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            return Ok(());
        }
        let known = begun.inputs.iter().find(|(_, files)| files.keys().eq(found.keys()));
        let name = match known {
            // A step killed in its first seconds has not all hashes.
            Some((_, files)) if files.values().all(|input| input.sha256.is_some()) => return Ok(()),
            Some((name, _)) => name.clone(),
            None => match begun.inputs.get(name) {
                Some(known) => return same(name, known, &found),
                None => name.to_string(),
            },
        };
        begun.inputs.entry(name.clone()).or_insert_with(|| found.clone());
        files::write_json(&self.path, &*begun)?;
        drop(begun);
        self.hash(name, found.into_keys().collect());
        Ok(())
    }

    fn hash(&self, name: String, paths: Vec<PathBuf>) {
        let (begun, wanted, kept) = (Arc::clone(&self.begun), Arc::clone(&self.wanted), self.path.clone());
        let thread = std::thread::spawn(move || {
            let check = || if wanted.load(Ordering::Relaxed) { Ok(()) } else { Err(signals::interrupted()) };
            let hashed = hashes::each_file(paths, &check, &mut |path, hash| {
                let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(input) = begun.inputs.get_mut(&name).and_then(|files| files.get_mut(path)) {
                    input.sha256 = Some(hash.to_string());
                }
            });
            if hashed.is_err() {
                return;
            }
            // What cannot be written here is found out by the step itself.
            drop(files::write_json(&kept, &*begun.lock().unwrap_or_else(PoisonError::into_inner)));
        });
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// Writes what is known so far into another folder: a checkpoint's.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join(FILE), &*self.begun.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the hashes and gives them. Ctrl-C ends the waiting.
    pub(crate) fn finish(&self) -> Result<Vec<(PathBuf, String)>> {
        for thread in self.take_threads() {
            while !thread.is_finished() {
                signals::check().inspect_err(|_| self.wanted.store(false, Ordering::Relaxed))?;
                std::thread::sleep(POLL);
            }
            drop(thread.join());
        }
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let all = begun.inputs.values().flatten();
        Ok(all.filter_map(|(path, input)| Some((path.clone(), input.sha256.clone()?))).collect())
    }

    /// Waits for no more hashes.
    pub(crate) fn give_up(&self) {
        self.wanted.store(false, Ordering::Relaxed);
        for thread in self.take_threads() {
            drop(thread.join());
        }
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The same files elsewhere are the same input: a model that was downloaded again.
fn same(name: &str, known: &Files, found: &Files) -> Result<()> {
    let by_name = |files: &Files| -> BTreeMap<String, Input> {
        files.iter().map(|(path, input)| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), input.clone())).collect()
    };
    let (was, mut now) = (by_name(known), by_name(found));
    hashes::each_file(found.keys().cloned(), &signals::check, &mut |path, hash| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(input) = now.get_mut(&*file) {
            input.sha256 = Some(hash.to_string());
        }
    })?;
    for (file, input) in &was {
        let equal =
            now.get(file).is_some_and(|other| other.bytes == input.bytes && (input.sha256.is_none() || input.sha256 == other.sha256));
        if !equal {
            return Err(changed(name, &format!("{file} is another one")));
        }
    }
    Ok(())
}

/// The files of a model's folder that matter, or the file itself; nothing for a name on the hub.
fn listed(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let Ok(entries) = std::fs::read_dir(&absolute) else {
        return if absolute.is_file() { vec![absolute] } else { Vec::new() };
    };
    let known =
        |file: &Path| file.extension().is_some_and(|extension| ["safetensors", "json", "jinja"].iter().any(|known| extension == *known));
    entries.flatten().map(|entry| entry.path()).filter(|file| known(file) && file.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn begun(params: &Value) -> Begun {
        Begun::new("finetune_lora", params.as_object().unwrap())
    }

    #[test]
    fn a_file_that_changed_or_went_away_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data.json");
        std::fs::write(&data, "[1]").unwrap();
        let recorder = Recorder::begin(folder.path(), begun(&json!({}))).unwrap();
        recorder.add("dataset_path", std::slice::from_ref(&data)).unwrap();
        assert_eq!(recorder.finish().unwrap().len(), 1);
        let kept = Begun::read(folder.path()).unwrap().unwrap();
        kept.check_inputs().unwrap();
        for change in [Some("[2]"), Some("[1, 2]"), None] {
            match change {
                Some(text) => std::fs::write(&data, text).unwrap(),
                None => std::fs::remove_file(&data).unwrap(),
            }
            let message = kept.check_inputs().unwrap_err().to_string();
            assert!(message.contains("dataset_path has changed") && message.contains("data.json"), "{message}");
        }
    }

    #[test]
    fn a_model_elsewhere_is_the_same_only_with_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a", "x"), ("b", "x"), ("c", "y")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("model.safetensors"), text).unwrap();
        }
        let recorder = Recorder::begin(folder.path(), begun(&json!({}))).unwrap();
        recorder.add("model", &[folder.path().join("a")]).unwrap();
        recorder.finish().unwrap();
        recorder.add("model", &[folder.path().join("b")]).unwrap();
        let message = recorder.add("model", &[folder.path().join("c")]).unwrap_err().to_string();
        assert!(message.contains("model has changed: model.safetensors"), "{message}");
    }

    #[test]
    fn parameters_that_differ_are_named_but_not_where_it_runs() {
        let old = begun(&json!({"seed": 1, "learning_rate": 0.1, "runs_dir": null}));
        let new = json!({"seed": 1, "learning_rate": 0.2, "runs_dir": "elsewhere"});
        assert_eq!(old.changed_params(new.as_object().unwrap()), ["learning_rate (was 0.1, is 0.2)"]);
        assert!(old.changed_params(&old.params.clone()).is_empty());
    }
}
