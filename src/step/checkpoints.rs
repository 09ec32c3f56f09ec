//! Checkpoints of a training: whole only after their rename, with a list of their files and hashes, and verified before they are used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::{error, files, hashes, signals};
use crate::step::inputs::Begun;

/// Their folder in a step's folder.
pub const FOLDER: &str = "checkpoints";
const PREFIX: &str = "checkpoint-";
/// What `checkpoints.py` keeps of a training besides what Trainer does.
const STATE: &str = "resume.json";
const MANIFEST: &str = "manifest.json";

/// `manifest.json`: every other file of the checkpoint, by its path in there.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// Writes the manifest into a finished folder, brings all to disk and gives it its name. A broken one of that name makes way.
pub fn publish(made: &Path, target: &Path) -> Result<()> {
    let mut manifest = Manifest { files: BTreeMap::new() };
    list(made, made, &mut manifest.files)?;
    files::write_json(&made.join(MANIFEST), &manifest)?;
    files::remove(target)?;
    files::publish_folder(made, target)
}

fn list(root: &Path, folder: &Path, found: &mut BTreeMap<String, Entry>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, found)?;
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.insert(name, Entry { bytes: entry.metadata()?.len(), sha256: hashes::sha256(&path)? });
        }
    }
    Ok(())
}

/// What is wrong with a checkpoint; nothing where it is whole.
fn fault(folder: &Path) -> Result<Option<String>> {
    let Ok(text) = std::fs::read(folder.join(MANIFEST)) else { return Ok(Some(format!("it has no {MANIFEST}"))) };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return Ok(Some(format!("its {MANIFEST} is damaged"))) };
    for (name, entry) in &manifest.files {
        signals::check()?;
        let path = folder.join(name);
        match std::fs::metadata(&path) {
            Err(_) => return Ok(Some(format!("{name} is missing"))),
            Ok(now) if now.len() != entry.bytes => return Ok(Some(format!("{name} has {} bytes and not {}", now.len(), entry.bytes))),
            Ok(_) if hashes::sha256(&path)? != entry.sha256 => return Ok(Some(format!("{name} has another content (SHA-256)"))),
            Ok(_) => {}
        }
    }
    Ok(None)
}

/// The checkpoints of a step by their training steps, the newest first; nothing is verified.
pub fn all(step: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(step.join(FOLDER)).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?, entry.path())))
        .filter(|(_, path)| path.is_dir())
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// The newest whole checkpoint of a step that is resumed, of the same data, model and parameters. Broken newer ones are said and left.
pub(crate) fn newest(step: &Path, begun: &Begun) -> Result<Option<PathBuf>> {
    files::remove(&step.join(FOLDER).join(".partial"))?;
    for folder in all(step) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(fault) = fault(&folder)? {
            warning!("{name} is broken and left out: {fault}");
            continue;
        }
        check_origin(&name, &folder, begun)?;
        info!("goes on from {name}");
        return Ok(Some(folder));
    }
    Ok(None)
}

/// The device that the training ran on, which `auto` might no longer mean.
pub(crate) fn device(checkpoint: &Path) -> Option<String> {
    let text = std::fs::read(checkpoint.join(STATE)).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
    state["device"].as_str().map(ToString::to_string)
}

fn check_origin(name: &str, folder: &Path, begun: &Begun) -> Result<()> {
    let Some(origin) = Begun::read(folder)? else {
        return Err(error::input(format!("{name} does not say what it was made with; run the step anew with overwrite")));
    };
    let changed = origin.changed_params(&begun.params);
    if changed.is_empty() {
        return Ok(());
    }
    Err(error::input(format!(
        "the step cannot be resumed, what {name} was made with has changed: {}; put it back as it was, or run the step anew with overwrite",
        changed.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn begun(seed: u32) -> Begun {
        Begun::new("finetune_lora", &Map::from_iter([("seed".to_string(), json!(seed))]))
    }

    fn step() -> tempfile::TempDir {
        let step = tempfile::tempdir().unwrap();
        for number in [5, 10] {
            let made = step.path().join("made");
            std::fs::create_dir_all(made.join("deep")).unwrap();
            files::write_json(&made.join(crate::step::inputs::FILE), &begun(1)).unwrap();
            std::fs::write(made.join("optimizer.pt"), "state").unwrap();
            std::fs::write(made.join("deep/rng_state.pth"), "state").unwrap();
            std::fs::create_dir_all(step.path().join(FOLDER)).unwrap();
            publish(&made, &step.path().join(FOLDER).join(format!("{PREFIX}{number}"))).unwrap();
        }
        step
    }

    fn newest_number(step: &Path) -> Option<String> {
        newest(step, &begun(1)).unwrap().map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
    }

    #[test]
    fn a_broken_newest_one_gives_way_to_the_one_before() {
        type Breaking = fn(&Path);
        let ways: [Breaking; 5] = [
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
    fn another_parameter_is_refused_by_its_name() {
        let message = newest(step().path(), &begun(2)).unwrap_err().to_string();
        assert!(message.contains("seed (was 1, is 2)"), "{message}");
    }
}
