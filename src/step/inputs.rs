//! The inputs of a step, written to `<step>/begun.json` when it starts, so that it can be resumed after any interruption.
//!
//! A resumed step takes no parameters: it uses those in its begun.json, and the checkpoint must agree with them. The input files are
//! hashed by threads while Python runs. Hashing stops if the step fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{error, files, hashes, secrets, signals, threads};

/// The file's name in a step's folder and in a checkpoint.
pub const FILE: &str = "begun.json";

/// How often `finish` checks for hashes and signals.
const POLL: Duration = Duration::from_millis(2);

/// Parameters that do not affect the result of a step.
const RUN_PARAMS: [&str; 7] = ["step", "overwrite", "dry_run", "offline", "runs_dir", "nproc_per_node", "max_restarts"];

/// The task, parameters and input files of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInputs {
    pub task: String,
    /// All parameters after validation, before the script resolves the open ones. Secrets are redacted.
    pub params: Map<String, Value>,
    /// The working directory, to which relative paths refer.
    pub cwd: PathBuf,
    pub version: String,
    /// The files that the step depends on, by parameter or model.
    pub inputs: BTreeMap<String, InputFiles>,
}

/// Absolute paths with size and hash.
pub type InputFiles = BTreeMap<PathBuf, InputFile>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    pub bytes: u64,
    /// `None` until it is computed.
    pub sha256: Option<String>,
}

impl StepInputs {
    pub(crate) fn new(task: &str, params: &Map<String, Value>) -> StepInputs {
        StepInputs {
            task: task.to_string(),
            params: secrets::redacted(params),
            cwd: std::env::current_dir().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            inputs: BTreeMap::new(),
        }
    }

    /// Reads `<folder>/begun.json`. `None` if it does not exist.
    ///
    /// # Errors
    /// Kind `input` if it is damaged, `io` if it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<StepInputs>> {
        let path = folder.join(FILE);
        match files::read_own(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
                error::input(format!("{} is damaged ({cause}), so the step cannot be resumed; run it again with overwrite", path.display()))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// The parameters in which two maps differ: `learning_rate (was 0.001, is 0.1)`. One that is not recorded is of a later build, has its
    /// default, and is not compared: all parameters of a build are recorded.
    pub(crate) fn changed_params(&self, now: &Map<String, Value>) -> Vec<String> {
        let null = Value::Null;
        self.params
            .keys()
            .filter(|name| !RUN_PARAMS.contains(&name.as_str()))
            .filter_map(|name| {
                let (old, new) = (self.params.get(name).unwrap_or(&null), now.get(name).unwrap_or(&null));
                (old != new).then(|| format!("{name} (was {old}, is {new})"))
            })
            .collect()
    }

    /// Checks that the input files have not changed.
    ///
    /// # Errors
    /// Kind `input`, with the file that changed.
    pub(crate) fn check_inputs(&self) -> Result<()> {
        for (name, known) in &self.inputs {
            for (path, was) in known {
                let what = match std::fs::metadata(path) {
                    Err(_) => "no longer exists",
                    Ok(now) if now.len() != was.bytes => "has a different size than when the step started",
                    Ok(_) => continue,
                };
                return Err(changed_error(name, &format!("{} {what}", path.display())));
            }
            let hashed = known.iter().filter(|(_, was)| was.sha256.is_some()).map(|(path, _)| path.clone());
            let mut other = None;
            hashes::each_file(hashed, &signals::check, &mut |path, hash| {
                if known[path].sha256.as_deref() != Some(hash) {
                    other = Some(path.to_path_buf());
                }
            })?;
            if let Some(path) = other {
                return Err(changed_error(
                    name,
                    &format!("{} has a different content (SHA-256) than when the step started", path.display()),
                ));
            }
        }
        Ok(())
    }
}

fn changed_error(name: &str, what: &str) -> anyhow::Error {
    error::input(format!(
        "the step cannot be resumed, {name} has changed: {what}; restore the original, or restart the step with overwrite"
    ))
}

/// Maintains the begun.json of a running step. Files are listed at once; threads add their hashes.
#[derive(Debug)]
pub(crate) struct InputsRecorder {
    path: PathBuf,
    recorded: Arc<Mutex<StepInputs>>,
    /// Set to false to stop the threads: an interrupted step must not wait until gigabytes are hashed.
    active: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl InputsRecorder {
    /// Writes begun.json into the step's folder.
    pub(crate) fn begin(folder: &Path, recorded: StepInputs) -> Result<InputsRecorder> {
        let path = folder.join(FILE);
        files::write_json(&path, &recorded)?;
        Ok(InputsRecorder {
            path,
            recorded: Arc::new(Mutex::new(recorded)),
            active: Arc::new(AtomicBool::new(true)),
            threads: Mutex::default(),
        })
    }

    /// Records the files, or the model folder, of a parameter.
    ///
    /// # Errors
    /// Kind `input` if the step is resumed and the files differ from the recorded ones.
    pub(crate) fn add(&self, name: &str, paths: &[PathBuf]) -> Result<()> {
        let found: InputFiles = paths
            .iter()
            .flat_map(|path| model_files(path))
            .filter_map(|file| {
                let bytes = file.metadata().ok()?.len();
                Some((file, InputFile { bytes, sha256: None }))
            })
            .collect();
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            return Ok(());
        }
        let known = recorded.inputs.iter().find(|(_, files)| files.keys().eq(found.keys()));
        let name = match known {
            // If the step was killed early, some hashes are missing.
            Some((_, files)) if files.values().all(|input| input.sha256.is_some()) => return Ok(()),
            Some((name, _)) => name.clone(),
            None => match recorded.inputs.get(name) {
                Some(known) => return check_same_files(name, known, &found),
                None => name.to_string(),
            },
        };
        recorded.inputs.entry(name.clone()).or_insert_with(|| found.clone());
        files::write_json(&self.path, &*recorded)?;
        drop(recorded);
        self.hash(name, found.into_keys().collect());
        Ok(())
    }

    fn hash(&self, name: String, paths: Vec<PathBuf>) {
        let (recorded, active, kept) = (Arc::clone(&self.recorded), Arc::clone(&self.active), self.path.clone());
        let thread = threads::spawn(move || {
            let check = || if active.load(Ordering::Relaxed) { Ok(()) } else { Err(signals::interrupted(None).into()) };
            let hashed = hashes::each_file(paths, &check, &mut |path, hash| {
                let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(input) = recorded.inputs.get_mut(&name).and_then(|files| files.get_mut(path)) {
                    input.sha256 = Some(hash.to_string());
                }
            });
            if hashed.is_err() {
                return;
            }
            // If this fails, the step itself fails to write too and reports it.
            drop(files::write_json(&kept, &*recorded.lock().unwrap_or_else(PoisonError::into_inner)));
        });
        match thread {
            Ok(thread) => self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
            Err(work) => work(),
        }
    }

    /// Writes the current state into a checkpoint's folder.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join(FILE), &*self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the hashes and returns them.
    ///
    /// # Errors
    /// Kind `interrupted` after Ctrl-C.
    pub(crate) fn finish(&self) -> Result<Vec<(PathBuf, String)>> {
        for thread in self.take_threads() {
            while !thread.is_finished() {
                signals::check().inspect_err(|_| self.active.store(false, Ordering::Relaxed))?;
                std::thread::sleep(POLL);
            }
            drop(thread.join());
        }
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let all = recorded.inputs.values().flatten();
        Ok(all.filter_map(|(path, input)| Some((path.clone(), input.sha256.clone()?))).collect())
    }

    /// Stops hashing.
    pub(crate) fn cancel(&self) {
        self.active.store(false, Ordering::Relaxed);
        for thread in self.take_threads() {
            drop(thread.join());
        }
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Checks that files in a different place have the same names and contents, such as a model that was downloaded again.
fn check_same_files(name: &str, known: &InputFiles, found: &InputFiles) -> Result<()> {
    let by_name = |files: &InputFiles| -> BTreeMap<String, InputFile> {
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
            return Err(changed_error(name, &format!("{file} is a different file")));
        }
    }
    Ok(())
}

/// The relevant files of a model's folder, or the file itself. Empty for a Hub name.
pub(crate) fn model_files(path: &Path) -> Vec<PathBuf> {
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

    fn recorded(params: &Value) -> StepInputs {
        StepInputs::new("finetune_lora", params.as_object().unwrap())
    }

    #[test]
    fn a_changed_or_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data.json");
        std::fs::write(&data, "[1]").unwrap();
        let recorder = InputsRecorder::begin(folder.path(), recorded(&json!({}))).unwrap();
        recorder.add("dataset_path", std::slice::from_ref(&data)).unwrap();
        assert_eq!(recorder.finish().unwrap().len(), 1);
        let kept = StepInputs::read(folder.path()).unwrap().unwrap();
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
    fn a_model_in_another_folder_is_accepted_only_with_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a", "x"), ("b", "x"), ("c", "y")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("model.safetensors"), text).unwrap();
        }
        let recorder = InputsRecorder::begin(folder.path(), recorded(&json!({}))).unwrap();
        recorder.add("model", &[folder.path().join("a")]).unwrap();
        recorder.finish().unwrap();
        recorder.add("model", &[folder.path().join("b")]).unwrap();
        let message = recorder.add("model", &[folder.path().join("c")]).unwrap_err().to_string();
        assert!(message.contains("model has changed: model.safetensors"), "{message}");
    }

    #[test]
    fn changed_parameters_are_named_except_run_parameters() {
        let old = recorded(&json!({"seed": 1, "learning_rate": 0.1, "runs_dir": null}));
        let new = json!({"seed": 1, "learning_rate": 0.2, "runs_dir": "elsewhere"});
        assert_eq!(old.changed_params(new.as_object().unwrap()), ["learning_rate (was 0.1, is 0.2)"]);
        assert!(old.changed_params(&old.params.clone()).is_empty());
    }
}
