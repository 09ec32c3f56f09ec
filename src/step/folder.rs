//! Where a step writes, and what happens to earlier results of its name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::base::error::{Error, Kind};
use crate::base::{error, files};
use crate::params::interface::Interface;
use crate::session::summary::{Status, Summary};
use crate::step::{checkpoints, inputs};

/// Where a step writes while it runs, and where its folder is to stand.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) work: PathBuf,
    home: PathBuf,
}

impl Place {
    /// The step's own folder where it is free or holds only a failed attempt; beside it (`.new`) where an earlier success is to be
    /// replaced. What could be lost, a success or an attempt's checkpoints, needs `overwrite`.
    pub(crate) fn find(session: &Path, step: &str, overwrite: bool, interface: Interface) -> Result<Place> {
        let home = session.join(step);
        let written = home.join("summary.json").exists();
        // A damaged summary may be a success's.
        let succeeded = written && Summary::read(&home).map_or(true, |summary| summary.is_none_or(|one| one.status == Status::Success));
        if succeeded {
            if !overwrite {
                let id = session.file_name().unwrap_or_default().display();
                let resume = format!("; `pyrust-nn resume {id}` goes on with a pipeline that was interrupted, another session begins anew");
                return Err(error::usage(format!(
                    "step {step} exists in {}; give {} to replace it, or another step name{}",
                    session.display(),
                    interface.spell("overwrite"),
                    if interface == Interface::Toml { resume.as_str() } else { "" }
                )));
            }
            let work = session.join(format!("{step}.new"));
            clear(&work)?;
            return Ok(Place { work, home });
        }
        if let (false, Some(newest)) = (overwrite, checkpoints::all(&home).first()) {
            return Err(error::usage(format!(
                "step {step} in {} was interrupted and has checkpoints up to {}; `pyrust-nn resume {}` goes on from there, {} begins anew",
                session.display(),
                newest.file_name().unwrap_or_default().display(),
                session.file_name().unwrap_or_default().display(),
                interface.spell("overwrite")
            )));
        }
        let ours = ["summary.json", "script.py", inputs::FILE, checkpoints::FOLDER].iter().any(|name| home.join(name).exists());
        let empty = std::fs::read_dir(&home).is_ok_and(|mut entries| entries.next().is_none());
        if home.exists() && !ours && !empty {
            return Err(error::usage(format!("{} is there and no step of ours; choose another step name", home.display())));
        }
        clear(&home)?;
        Ok(Place { work: home.clone(), home })
    }

    /// Where an attempt that did not end stands: the step's own folder, or beside an earlier success that it was to replace.
    pub(crate) fn unfinished(session: &Path, step: &str) -> Option<PathBuf> {
        let home = session.join(step);
        let succeeded = matches!(Summary::read(&home), Ok(Some(summary)) if summary.status == Status::Success);
        let places = if succeeded { vec![format!("{step}.new"), format!("{step}.failed")] } else { vec![step.to_string()] };
        places.into_iter().map(|name| session.join(name)).find(|folder| folder.join(inputs::FILE).is_file())
    }

    /// The place of an attempt that goes on.
    pub(crate) fn again(session: &Path, step: &str) -> Result<Place> {
        let home = session.join(step);
        let found = Place::unfinished(session, step)
            .ok_or_else(|| error::usage(format!("step {step} in {} has nothing to resume", session.display())))?;
        let work = if found == home { home.clone() } else { session.join(format!("{step}.new")) };
        if found != work {
            files::rename(&found, &work).with_context(|| format!("{} cannot be renamed", found.display()))?;
        }
        files::remove(&work.join("summary.json"))?;
        Ok(Place { work, home })
    }

    /// Paths as the script gave them, relative to the session, under the step's final name.
    pub(crate) fn outputs(&self, session: &Path, step: &str, given: Map<String, Value>) -> Result<Map<String, Value>> {
        let relative = |path: &Value| -> Result<Value> {
            let named = path.as_str().filter(|path| !path.is_empty());
            let named = named.ok_or_else(|| Error::new(Kind::Script, format!("the script's outputs must be paths, not {path}")))?;
            let path = self.work.join(named);
            anyhow::ensure!(path.exists(), "the script named an output that does not exist: {}", path.display());
            match path.strip_prefix(&self.work) {
                Ok(inner) => Ok(Path::new(step).join(inner).to_string_lossy().into_owned().into()),
                Err(_) => Ok(path.strip_prefix(session).unwrap_or(&path).to_string_lossy().into_owned().into()),
            }
        };
        given
            .into_iter()
            .map(|(name, value)| {
                let value = match &value {
                    Value::Array(paths) => paths.iter().map(relative).collect::<Result<Value>>()?,
                    path => relative(path)?,
                };
                Ok((name, value))
            })
            .collect()
    }

    /// Writes the summary and gives the step its place.
    pub(crate) fn close(&self, session: &Path, summary: &Summary) -> Result<()> {
        if self.work == self.home {
            files::create_folders(&self.work)?;
            return files::write_json(&self.work.join("summary.json"), summary);
        }
        if summary.status == Status::Failure {
            // The earlier success stays; what was tried stands beside it.
            if !self.work.join(inputs::FILE).is_file() {
                files::remove(&self.work)?;
                return write_beside(session, summary);
            }
            let failed = session.join(format!("{}.failed", summary.step));
            files::create_folders(&self.work)?;
            files::write_json(&self.work.join("summary.json"), summary)?;
            files::remove(&failed)?;
            return files::publish_folder(&self.work, &failed);
        }
        files::write_json(&self.work.join("summary.json"), summary)?;
        let old = session.join(format!("{}.old", summary.step));
        files::remove(&old)?;
        files::replace_folder(&self.work, &self.home, &old)?;
        files::remove(&old)
    }
}

/// Ends replacements that died between their two renames: the step is the new success, or else the old one.
pub(crate) fn restore(session: &Path) -> Result<()> {
    for end in [".new", ".old"] {
        for entry in std::fs::read_dir(session)?.flatten() {
            let Some(home) = entry.file_name().to_str().and_then(|name| name.strip_suffix(end)).map(|step| session.join(step)) else {
                continue;
            };
            let succeeded = || matches!(Summary::read(&entry.path()), Ok(Some(summary)) if summary.status == Status::Success);
            if !home.exists() && succeeded() {
                files::rename(&entry.path(), &home).with_context(|| format!("{} cannot be renamed", entry.path().display()))?;
            }
        }
    }
    Ok(())
}

/// Removes an earlier attempt. One with checkpoints stays until the next has begun: a mistyped parameter must not cost them.
fn clear(folder: &Path) -> Result<()> {
    if checkpoints::all(folder).is_empty() { files::remove(folder) } else { Ok(()) }
}

/// The summary of an attempt that had no place of its own.
pub(crate) fn write_beside(session: &Path, summary: &Summary) -> Result<()> {
    let failed = session.join(format!("{}.failed", summary.step));
    if !checkpoints::all(&failed).is_empty() {
        return Ok(()); // an attempt that can be resumed; the log has the refusal
    }
    files::remove(&failed)?;
    files::create_folders(&failed)?;
    files::write_json(&failed.join("summary.json"), summary)
}
