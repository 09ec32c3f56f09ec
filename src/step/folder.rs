//! The folder of a step, and what happens to earlier results of the same step.
//!
//! A step that replaces an earlier success runs in `<step>.new`. A success then replaces the earlier one. A failure becomes
//! `<step>.failed`, and the earlier success stays. A refused attempt changes nothing: an earlier failed one is `<step>.old` until the new one
//! cannot be refused any more.
//!
//! The rename itself is in `base/files/folders.rs`.
//!
//! A failed step can be run again without `overwrite`, because nothing can be lost. It needs `overwrite` if it has checkpoints.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error::{Error, Kind};
use crate::base::{error, files};
use crate::params::interface::Interface;
use crate::session::summary::{Status, Summary};
use crate::step::request::Request;
use crate::step::{checkpoints, inputs};

/// The folder in which a step runs, and its final place.
#[derive(Debug)]
pub(crate) struct StepFolder {
    pub(crate) working: PathBuf,
    target: PathBuf,
    /// Where the attempt to resume is. `reopen` renames it to `working`.
    unfinished: Option<PathBuf>,
}

impl StepFolder {
    /// Finds the folder for an attempt. Changes nothing.
    ///
    /// # Errors
    /// Kind `usage` if a success or checkpoints would be lost without `overwrite`, if the folder is not a step's, or if there is nothing to
    /// resume.
    pub(crate) fn find(session: &Path, request: &Request) -> Result<StepFolder> {
        if request.resume {
            return StepFolder::to_resume(session, request.step());
        }
        let overwrite = request.given.get("overwrite") == Some(&Value::Bool(true));
        StepFolder::new(session, request.step(), overwrite, request.interface)
    }

    fn new(session: &Path, step: &str, overwrite: bool, interface: Interface) -> Result<StepFolder> {
        let target = session.join(step);
        let written = target.join("summary.json").exists();
        // A damaged summary may belong to a success.
        let succeeded = written && Summary::read(&target).map_or(true, |summary| summary.is_none_or(|one| one.status == Status::Success));
        if succeeded {
            if !overwrite {
                let id = session.file_name().unwrap_or_default().display();
                let fix = if interface == Interface::Toml {
                    // Of a pipeline, whose values may also be given where it is started.
                    format!(
                        "give another session (--session, or session = … in the file), or replace it (--overwrite, or overwrite = true); \
                         `pyrust-nn resume {id}` resumes an interrupted pipeline"
                    )
                } else {
                    format!("give {} to replace it, or another step name", interface.switched_on("overwrite"))
                };
                return Err(error::usage(format!("step {step} exists in {}; {fix}", session.display())));
            }
            return Ok(StepFolder { working: session.join(format!("{step}.new")), target, unfinished: None });
        }
        if let (false, Some(newest)) = (overwrite, checkpoints::all(&target).first()) {
            return Err(error::usage(format!(
                "step {step} in {} was interrupted and has checkpoints up to {}; `pyrust-nn resume {}` resumes from there, {} restarts",
                session.display(),
                newest.file_name().unwrap_or_default().display(),
                session.file_name().unwrap_or_default().display(),
                interface.switched_on("overwrite")
            )));
        }
        let is_step = ["summary.json", "script.py", inputs::FILE, checkpoints::FOLDER].iter().any(|name| target.join(name).exists());
        // A process that was killed while it wrote begun.json leaves only a temporary file.
        let empty = std::fs::read_dir(&target).is_ok_and(|entries| entries.flatten().all(|entry| files::is_partial(&entry.file_name())));
        if target.exists() && !is_step && !empty {
            return Err(error::usage(format!("{} exists and is not the folder of a step; choose another step name", target.display())));
        }
        Ok(StepFolder { working: target.clone(), target, unfinished: None })
    }

    /// The folder of an unfinished attempt: the step's own, or one beside the earlier success that it was to replace.
    pub(crate) fn unfinished(session: &Path, step: &str) -> Option<PathBuf> {
        let target = session.join(step);
        let succeeded = matches!(Summary::read(&target), Ok(Some(summary)) if summary.status == Status::Success);
        let names = if succeeded { vec![format!("{step}.new"), format!("{step}.failed")] } else { vec![step.to_string()] };
        names.into_iter().map(|name| session.join(name)).find(|folder| folder.join(inputs::FILE).is_file())
    }

    fn to_resume(session: &Path, step: &str) -> Result<StepFolder> {
        let target = session.join(step);
        let found = StepFolder::unfinished(session, step)
            .ok_or_else(|| error::usage(format!("step {step} in {} has nothing to resume", session.display())))?;
        let working = if found == target { target.clone() } else { session.join(format!("{step}.new")) };
        Ok(StepFolder { working, target, unfinished: Some(found) })
    }

    /// Reopens the attempt to resume.
    pub(crate) fn reopen(&self) -> Result<()> {
        let Some(unfinished) = &self.unfinished else { return Ok(()) };
        if *unfinished != self.working {
            files::rename(unfinished, &self.working)?;
        }
        files::remove(&self.working.join("summary.json"))?;
        files::sweep_partial(&self.working)
    }

    /// Where an earlier attempt is until it is certain that the new one is not refused.
    pub(crate) fn earlier(&self) -> PathBuf {
        let name = self.working.file_name().unwrap_or_default().to_string_lossy();
        self.working.with_file_name(format!("{name}.old"))
    }

    /// Moves an earlier attempt out of the way.
    pub(crate) fn set_earlier_aside(&self) -> Result<()> {
        files::remove(&self.earlier())?;
        if self.working.exists() { files::rename(&self.working, &self.earlier()) } else { Ok(()) }
    }

    /// Removes an earlier attempt, if it is still there. If that fails, the next step of the session removes it.
    pub(crate) fn remove_earlier(&self) {
        if let Err(cause) = files::remove(&self.earlier()) {
            log::warn!("an earlier attempt cannot be removed: {cause:#}");
        }
    }

    /// Takes back a refused attempt, and brings back an earlier one.
    pub(crate) fn retract(&self) -> Result<()> {
        files::remove(&self.working)?;
        if self.earlier().exists() { files::rename(&self.earlier(), &self.working) } else { Ok(()) }
    }

    /// Converts the output paths of the script to paths relative to the session, with the step's final name.
    ///
    /// # Errors
    /// Kind `script` if an output is not a path, `internal` if it does not exist.
    pub(crate) fn outputs(&self, session: &Path, step: &str, given: Map<String, Value>) -> Result<Map<String, Value>> {
        let relative = |path: &Value| -> Result<Value> {
            let named = path.as_str().filter(|path| !path.is_empty());
            let named = named.ok_or_else(|| Error::new(Kind::Script, format!("the script's outputs must be paths, not {path}")))?;
            let path = self.working.join(named);
            anyhow::ensure!(path.exists(), "the script named an output that does not exist: {}", path.display());
            match path.strip_prefix(&self.working) {
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

    /// Makes everything in the folder private. A file system without modes must not fail a step, which is a warning.
    pub(crate) fn make_private(&self) {
        if self.working.is_dir()
            && let Err(cause) = files::make_private(&self.working)
        {
            log::warn!("the files in {} cannot be made private: {cause}", self.target.display());
        }
    }

    /// Writes the summary and moves the step to its final place.
    pub(crate) fn commit(&self, session: &Path, summary: &Summary) -> Result<()> {
        if self.working == self.target {
            // Not asked for if it is there: on a full disk that may be refused too.
            if !self.working.is_dir() {
                files::create_folders(&self.working)?;
            }
            return files::write_json(&self.working.join("summary.json"), summary);
        }
        if summary.status == Status::Failure {
            // The earlier success stays. The failed attempt is kept beside it.
            if !self.working.join(inputs::FILE).is_file() {
                files::remove(&self.working)?;
                return write_failure_beside(session, summary);
            }
            let failed = session.join(format!("{}.failed", summary.step));
            files::create_folders(&self.working)?;
            files::write_json(&self.working.join("summary.json"), summary)?;
            files::remove(&failed)?;
            return files::publish_folder(&self.working, &failed);
        }
        files::write_json(&self.working.join("summary.json"), summary)?;
        let old = session.join(format!("{}.old", summary.step));
        files::remove(&old)?;
        files::replace_folder(&self.working, &self.target, &old)?;
        files::remove(&old)
    }

    /// Writes the failure of a step whose success could not be written. That summary may be there and not be durable; the step is told to
    /// have failed, so it must not look like a success to `resume`.
    pub(crate) fn replace_success(&self, summary: &Summary) {
        if self.working == self.target {
            let path = self.working.join("summary.json");
            drop(files::remove(&path).and_then(|()| files::write_json(&path, summary)));
        }
    }
}

/// Completes replacements that were interrupted between their two renames. The step becomes the new success, otherwise what it was before.
pub(crate) fn complete_replacements(session: &Path) -> Result<()> {
    for end in [".new", ".old"] {
        for entry in std::fs::read_dir(session)?.flatten() {
            let Some(target) = entry.file_name().to_str().and_then(|name| name.strip_suffix(end)).map(|step| session.join(step)) else {
                continue;
            };
            let succeeded = || matches!(Summary::read(&entry.path()), Ok(Some(summary)) if summary.status == Status::Success);
            match (end, target.exists()) {
                (".old", true) => files::remove(&entry.path())?,
                (".old", false) => files::rename(&entry.path(), &target)?,
                (_, false) if succeeded() => files::rename(&entry.path(), &target)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Writes the summary of an attempt that failed before it had a folder of its own, to `<step>.failed`.
fn write_failure_beside(session: &Path, summary: &Summary) -> Result<()> {
    let failed = session.join(format!("{}.failed", summary.step));
    if !checkpoints::all(&failed).is_empty() {
        return Ok(()); // it can be resumed; the failure is in the log only
    }
    files::remove(&failed)?;
    files::create_folders(&failed)?;
    files::write_json(&failed.join("summary.json"), summary)
}
