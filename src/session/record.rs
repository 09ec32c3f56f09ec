//! A session: `runs/<id>/` with its lock, its log and `session.json`, which lists all steps that were run in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::base::clock::now;
use crate::base::error::Kind;
use crate::base::files::LockFile;
use crate::base::{error, files};
use crate::session::folder_identity::FolderIdentity;
use crate::session::lock::{host, lock};
use crate::session::names::check_name;
use crate::session::summary::{Status, Summary};

/// A session that is locked by this process.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    /// `runs/<id>`, absolute.
    pub folder: PathBuf,
    /// Whether the folder was made when it was opened.
    pub(crate) is_new: bool,
    record: Map<String, Value>,
    /// The record that was found. `None`: the session is new.
    found: Option<Map<String, Value>>,
    place: FolderIdentity,
    /// Held until the session is dropped. The system releases it if the process dies.
    lock: LockFile,
}

impl Drop for Session {
    /// Unlocks explicitly, because a process that a script forked has the file open too.
    fn drop(&mut self) {
        drop(self.lock.unlock());
    }
}

impl Session {
    /// Opens or creates a session and locks it.
    ///
    /// # Errors
    /// Kind `usage` if the name is invalid, `busy` if another process uses the session, `input` if its session.json is damaged.
    pub fn open(runs: &Path, id: &str) -> Result<Session> {
        check_name("session", id)?;
        let folder = runs.join(id);
        let is_new = !folder.exists();
        files::create_folders(&folder)
            .with_context(|| format!("session folder {} cannot be created; choose another with --runs-dir", folder.display()))?;
        let folder = fs::canonicalize(&folder)?;
        let lock = lock(&folder, id)?;
        files::sweep_partial(&folder)?;
        let found = read_record(&folder)?;
        let record = found.clone().unwrap_or_else(|| {
            let record = json!({"id": id, "created": now(), "version": env!("CARGO_PKG_VERSION"), "state": "running",
                "platform": platform(), "python": null, "packages": {}, "gpu": null, "seeds": {}, "sha256": {}, "invocations": []});
            record.as_object().cloned().unwrap_or_default()
        });
        let place = FolderIdentity::of(&folder)?;
        Ok(Session { id: id.to_string(), folder, is_new, record, found, place, lock })
    }

    /// The folder, to see whether it is still the same.
    pub(crate) fn place(&self) -> FolderIdentity {
        self.place.clone()
    }

    /// The run of the pipeline that was noted last.
    pub(crate) fn pipeline_run(&self) -> Option<String> {
        Some(self.record.get("plan")?["id"].as_str()?.to_string())
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.join("pipeline.log")
    }

    /// Records that a step starts.
    ///
    /// `started_at`: that of the step's summary, by which `read_record` recognises it.
    pub fn begin(&mut self, task: &str, step: &str, started_at: &str, argv: &[String]) -> Result<()> {
        self.record.insert("state".into(), "running".into());
        self.record.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        if let Some(Value::Array(invocations)) = self.record.get_mut("invocations") {
            invocations.push(json!({"task": task, "step": step, "argv": argv, "pid": std::process::id(), "started_at": started_at, "finished_at": null, "status": null}));
        }
        self.save()
    }

    /// Records how the step ended, and the kind of its error.
    pub fn end(&mut self, status: Status, kind: Option<Kind>) -> Result<()> {
        let last = self.record.get("invocations").and_then(Value::as_array).map_or(0, Vec::len).saturating_sub(1);
        settle(&mut self.record, last, status, kind, &now());
        self.save()
    }

    /// Makes the record what it was when the session was opened.
    pub(crate) fn restore(&self) -> Result<()> {
        self.place.check()?;
        let path = self.folder.join("session.json");
        self.found.as_ref().map_or_else(|| files::remove(&path), |found| files::write_json(&path, found))
    }

    /// Records a fact under `name`; objects are merged. It is written by the next `begin` or `end`.
    pub fn note(&mut self, name: &str, value: Value) {
        match (self.record.get_mut(name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
            (_, value) => drop(self.record.insert(name.to_string(), value)),
        }
    }

    fn save(&self) -> Result<()> {
        self.place.check()?;
        files::write_json(&self.folder.join("session.json"), &self.record)
    }
}

/// The record of a session. `None` if it does not exist.
///
/// A step that has its summary has ended, also if its process was killed before the record said so.
pub fn read_record(folder: &Path) -> Result<Option<Map<String, Value>>> {
    let path = folder.join("session.json");
    let mut record: Map<String, Value> = match files::read_own(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|cause| {
            error::input(format!("{} is damaged ({cause}); move it away to continue, the steps are not affected", path.display()))
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let invocations = record.get("invocations").and_then(Value::as_array).into_iter().flatten().enumerate();
    let ended: Vec<(usize, Summary)> = invocations.filter_map(|(at, one)| Some((at, summary_of(folder, one)?))).collect();
    for (at, summary) in ended {
        let kind = summary.error.map(|error| error.kind);
        settle(&mut record, at, summary.status, kind, &summary.finished_at);
    }
    Ok(Some(record))
}

/// The summary of an invocation whose end is not recorded.
fn summary_of(session: &Path, invocation: &Value) -> Option<Summary> {
    let step = invocation["step"].as_str().filter(|_| invocation["status"].is_null())?;
    let folders = [step.to_string(), format!("{step}.failed")].map(|name| session.join(name));
    let mut found = folders.iter().filter_map(|folder| Summary::read(folder).ok().flatten());
    found.find(|summary| invocation["started_at"] == summary.started_at.as_str())
}

/// Records the end of the invocation number `at`.
fn settle(record: &mut Map<String, Value>, at: usize, status: Status, kind: Option<Kind>, finished_at: &str) {
    let status = json!(status);
    let Some(invocations) = record.get_mut("invocations").and_then(Value::as_array_mut) else { return };
    if let Some(Value::Object(one)) = invocations.get_mut(at) {
        one.insert("finished_at".into(), finished_at.into());
        one.insert("status".into(), status);
        one.insert("error".into(), kind.map(Kind::name).into());
    }
    let attempts: Vec<(&str, String)> =
        invocations.iter().map(|one| (one["step"].as_str().unwrap_or_default(), attempt_state(one))).collect();
    let state = state_of(&attempts);
    record.insert("state".into(), state.into());
}

/// The state of an attempt that session.json records, whose process has ended.
pub(crate) fn attempt_state(invocation: &Value) -> String {
    match invocation["status"].as_str() {
        Some(_) if invocation["error"] == "interrupted" => "interrupted".into(),
        Some(status) => status.to_lowercase(),
        None => "interrupted".into(),
    }
}

/// The state of a session, from the name and the state of each attempt in their order: that of the step that most needs attention, each step by
/// its last attempt. So a session with a step that failed is no success because another step succeeded later; `resume` has something to do there.
pub(crate) fn state_of(attempts: &[(&str, String)]) -> String {
    let later = |at: usize| attempts[at + 1..].iter().any(|(name, _)| *name == attempts[at].0);
    let last = attempts.iter().enumerate().filter(|(at, _)| !later(*at)).map(|(_, (_, state))| state.as_str());
    let attention = |state: &&str| match *state {
        "success" => 0,
        "interrupted" => 2,
        "failure" => 3,
        "running" => 4,
        _ => 1,
    };
    last.max_by_key(attention).unwrap_or("empty").to_string()
}

fn platform() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("model name").map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_string()))
    });
    let memory =
        fs::read_to_string("/proc/meminfo").ok().and_then(|text| text.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()));
    json!({"os": std::env::consts::OS, "arch": std::env::consts::ARCH, "host": host(), "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(1, usize::from), "memory_bytes": memory.map(|kb| kb * 1024)})
}

#[cfg(test)]
mod tests {
    use crate::session::lock::lock_owner;
    use crate::session::names::new_session_id;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_accepted_name_stays_in_the_runs_folder(name in ".{0,140}") {
            if check_name("session", &name).is_ok() {
                let path = Path::new("runs").join(&name);
                prop_assert_eq!(path.parent(), Some(Path::new("runs")));
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../x", "a/b", "", ".", "..", ".hidden", "a b", "ä", "a\0b", &"a".repeat(129)] {
            assert!(check_name("session", name).is_err(), "{name:?}");
        }
        for name in ["s1", "2026-11-24_run.3", &"a".repeat(128)] {
            assert!(check_name("session", name).is_ok(), "{name:?}");
        }
        assert!(check_name("session", &new_session_id()).is_ok());
    }

    #[test]
    fn one_owner_at_a_time_and_the_lock_names_it() {
        let runs = tempfile::tempdir().unwrap();
        let first = Session::open(runs.path(), "s1").unwrap();
        let refused = Session::open(runs.path(), "s1").unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert!(lock_owner(&first.folder).is_some());
        let folder = first.folder.clone();
        drop(first);
        assert!(lock_owner(&folder).is_none());
        Session::open(runs.path(), "s1").unwrap();
    }

    #[test]
    fn what_a_killed_process_left_of_a_write_is_removed() {
        let runs = tempfile::tempdir().unwrap();
        drop(Session::open(runs.path(), "s1").unwrap());
        let left = runs.path().join("s1/.session.json.partial-77");
        fs::write(&left, "{").unwrap();
        fs::write(runs.path().join("s1/.notes"), "the user's").unwrap();
        drop(Session::open(runs.path(), "s1").unwrap());
        assert!(!left.exists());
        assert!(runs.path().join("s1/.notes").exists());
    }

    #[test]
    fn every_invocation_is_kept() {
        let runs = tempfile::tempdir().unwrap();
        for step in ["a", "b"] {
            let mut session = Session::open(runs.path(), "s1").unwrap();
            session.begin("merge", step, "2026-01-01T00:00:00.000Z", &["pyrust-nn".into(), "merge".into()]).unwrap();
            session.end(Status::Success, None).unwrap();
        }
        let record = read_record(&runs.path().join("s1")).unwrap().unwrap();
        let steps: Vec<_> = record["invocations"].as_array().unwrap().iter().map(|one| one["step"].as_str().unwrap()).collect();
        assert_eq!(steps, ["a", "b"]);
        assert_eq!(record["state"], "success");
    }
}
