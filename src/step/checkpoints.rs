//! Training checkpoints. A checkpoint gets its name by a rename once it is complete. Its manifest lists the files with their hashes,
//! which are verified before it is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::{error, files, hashes, signals};
use crate::step::inputs::StepInputs;

/// The folder of the checkpoints in a step's folder.
pub const FOLDER: &str = "checkpoints";
const PREFIX: &str = "checkpoint-";
/// Written by `training/resuming.py`: device, precision, threads, and the losses since the last line of metrics.jsonl.
const STATE: &str = "resume.json";
const MANIFEST: &str = "manifest.json";

/// `manifest.json`: all other files of the checkpoint, by relative path.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, ManifestEntry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ManifestEntry {
    bytes: u64,
    sha256: String,
}

/// Writes the manifest into the finished folder `made`, syncs it to disk and renames it to `target`. A damaged checkpoint of that name is
/// replaced.
pub fn publish(made: &Path, target: &Path) -> Result<()> {
    let mut manifest = Manifest { files: BTreeMap::new() };
    list_files(made, made, &mut manifest.files)?;
    files::write_json(&made.join(MANIFEST), &manifest)?;
    files::remove(target)?;
    files::publish_folder(made, target)
}

fn list_files(root: &Path, folder: &Path, found: &mut BTreeMap<String, ManifestEntry>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_files(root, &path, found)?;
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.insert(name, ManifestEntry { bytes: entry.metadata()?.len(), sha256: hashes::sha256(&path)? });
        }
    }
    Ok(())
}

/// Describes what is wrong with a checkpoint. `None` if it is complete.
fn defect(folder: &Path) -> Result<Option<String>> {
    let Ok(text) = files::read_own(&folder.join(MANIFEST)) else { return Ok(Some(format!("it has no {MANIFEST}"))) };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return Ok(Some(format!("its {MANIFEST} is damaged"))) };
    for (name, entry) in &manifest.files {
        signals::check()?;
        let path = folder.join(name);
        match std::fs::metadata(&path) {
            Err(_) => return Ok(Some(format!("{name} is missing"))),
            Ok(now) if now.len() != entry.bytes => return Ok(Some(format!("{name} has {} bytes instead of {}", now.len(), entry.bytes))),
            Ok(_) if hashes::sha256(&path)? != entry.sha256 => return Ok(Some(format!("{name} has a different content (SHA-256)"))),
            Ok(_) => {}
        }
    }
    Ok(None)
}

/// The checkpoints of a step, newest first. They are not verified.
pub fn all(step: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(step.join(FOLDER)).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> =
        entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).filter(|(_, path)| path.is_dir()).collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// The newest complete checkpoint of a step. Damaged ones are skipped with a warning.
///
/// # Errors
/// Kind `input` if the checkpoint was made with other parameters.
pub(crate) fn newest(step: &Path, inputs: &StepInputs) -> Result<Option<PathBuf>> {
    files::remove(&step.join(FOLDER).join(".partial"))?;
    for folder in all(step) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(defect) = defect(&folder)? {
            warning!("{name} is damaged and skipped: {defect}");
            continue;
        }
        check_origin(&name, &folder, inputs)?;
        info!("resumes from {name}");
        return Ok(Some(folder));
    }
    Ok(None)
}

/// The number of training steps of a checkpoint.
pub(crate) fn number(checkpoint: &Path) -> Option<u64> {
    checkpoint.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// The device that the training used. `auto` might choose a different one now.
pub(crate) fn device(checkpoint: &Path) -> Option<String> {
    let text = files::read_own(&checkpoint.join(STATE)).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
    state["device"].as_str().map(ToString::to_string)
}

fn check_origin(name: &str, folder: &Path, inputs: &StepInputs) -> Result<()> {
    let Some(origin) = StepInputs::read(folder)? else {
        return Err(error::input(format!("{name} has no begun.json, so its parameters are unknown; restart the step with overwrite")));
    };
    let changed = origin.changed_params(&inputs.params);
    if changed.is_empty() {
        return Ok(());
    }
    Err(error::input(format!(
        "the step cannot be resumed, because parameters have changed since {name}: {}; restore the original values, or restart the step with overwrite",
        changed.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn step_inputs(seed: u32) -> StepInputs {
        StepInputs::new("finetune_lora", &Map::from_iter([("seed".to_string(), json!(seed))]))
    }

    fn step() -> tempfile::TempDir {
        let step = tempfile::tempdir().unwrap();
        for number in [5, 10] {
            let made = step.path().join("made");
            std::fs::create_dir_all(made.join("deep")).unwrap();
            files::write_json(&made.join(crate::step::inputs::FILE), &step_inputs(1)).unwrap();
            std::fs::write(made.join("optimizer.pt"), "state").unwrap();
            std::fs::write(made.join("deep/rng_state.pth"), "state").unwrap();
            std::fs::create_dir_all(step.path().join(FOLDER)).unwrap();
            publish(&made, &step.path().join(FOLDER).join(format!("{PREFIX}{number}"))).unwrap();
        }
        step
    }

    fn newest_number(step: &Path) -> Option<String> {
        newest(step, &step_inputs(1)).unwrap().map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
    }

    #[test]
    fn a_damaged_checkpoint_is_skipped_for_an_older_one() {
        type Damage = fn(&Path);
        let ways: [Damage; 5] = [
            |folder| std::fs::remove_file(folder.join("optimizer.pt")).unwrap(),
            |folder| std::fs::remove_file(folder.join("deep/rng_state.pth")).unwrap(),
            |folder| std::fs::write(folder.join("optimizer.pt"), "STATE").unwrap(),
            |folder| std::fs::write(folder.join("optimizer.pt"), "stat").unwrap(),
            |folder| std::fs::remove_file(folder.join(MANIFEST)).unwrap(),
        ];
        for way in ways {
            let step = step();
            assert_eq!(newest_number(step.path()).as_deref(), Some("checkpoint-10"));
            way(&step.path().join(FOLDER).join("checkpoint-10"));
            assert_eq!(newest_number(step.path()).as_deref(), Some("checkpoint-5"));
            way(&step.path().join(FOLDER).join("checkpoint-5"));
            assert_eq!(newest_number(step.path()), None);
        }
    }

    #[test]
    fn a_changed_parameter_is_named() {
        let message = newest(step().path(), &step_inputs(2)).unwrap_err().to_string();
        assert!(message.contains("seed (was 1, is 2)"), "{message}");
    }
}
