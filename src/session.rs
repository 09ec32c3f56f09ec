//! A session: `runs/<id>/` with its lock, its log and `session.json`, the list of everything that was run in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::error::Kind;
use crate::summary::now;
use crate::{error, files};

/// Ends of names that attempts beside a step use.
const RESERVED: [&str; 3] = [".failed", ".new", ".old"];

/// Refuses a session's or step's name that is not letters, digits, `.`, `_`, `-`, up to 128, without a leading dot.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !letters {
        let shown: String = name.chars().take(80).collect();
        return Err(error::usage(format!(
            "{what} {shown:?} is no name: use letters, digits, '.', '_' and '-', at most 128, without a leading dot"
        )));
    }
    if what == "step" && RESERVED.iter().any(|end| name.ends_with(end)) {
        return Err(error::usage(format!("step {name:?} ends in a reserved word ({}); choose another name", RESERVED.join(", "))));
    }
    Ok(())
}

/// A fresh id: the time in UTC and four random digits.
pub fn new_session_id() -> String {
    let now = OffsetDateTime::now_utc();
    let stamp = now.format(format_description!("[year][month][day]-[hour][minute][second]")).unwrap_or_default();
    format!("{stamp}-{:04x}", (now.nanosecond() ^ std::process::id().wrapping_mul(0x9e37_79b9)) & 0xffff)
}

/// Where sessions are: the given folder, else PYRUST_NN_RUNS, else `runs`.
pub fn runs_dir(given: Option<&Path>) -> PathBuf {
    given
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("PYRUST_NN_RUNS").filter(|value| !value.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("runs"))
}

/// A session that this process has the lock of.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    /// `runs/<id>`, absolute.
    pub folder: PathBuf,
    record: Map<String, Value>,
    /// Held until the session is dropped; the system lets go of it if the process dies.
    lock: File,
}

impl Drop for Session {
    /// Closing the file would not do: a process that a script has forked has it open, too.
    fn drop(&mut self) {
        drop(self.lock.unlock());
    }
}

impl Session {
    /// Opens or makes a session and locks it.
    pub fn open(runs: &Path, id: &str) -> Result<Session> {
        check_name("session", id)?;
        let folder = runs.join(id);
        fs::create_dir_all(&folder)
            .with_context(|| format!("session folder {} cannot be made; choose another with --runs-dir", folder.display()))?;
        let folder = fs::canonicalize(&folder)?;
        let lock = lock(&folder, id)?;
        let record = read_record(&folder)?.unwrap_or_else(|| {
            let record = json!({"id": id, "created": now(), "version": env!("CARGO_PKG_VERSION"), "state": "running",
                "platform": platform(), "python": null, "packages": {}, "gpu": null, "seeds": {}, "sha256": {}, "invocations": []});
            record.as_object().cloned().unwrap_or_default()
        });
        Ok(Session { id: id.to_string(), folder, record, lock })
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.join("pipeline.log")
    }

    /// Notes that a step begins.
    pub fn begin(&mut self, task: &str, step: &str, argv: &[String]) -> Result<()> {
        self.record.insert("state".into(), "running".into());
        self.record.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        if let Some(Value::Array(invocations)) = self.record.get_mut("invocations") {
            invocations.push(json!({"task": task, "step": step, "argv": argv, "pid": std::process::id(), "started_at": now(), "finished_at": null, "status": null}));
        }
        self.save()
    }

    /// Notes how it ended, and the kind of its error.
    pub fn end(&mut self, status: crate::Status, kind: Option<Kind>) -> Result<()> {
        let status = serde_json::to_value(status)?;
        let state = if kind == Some(Kind::Interrupted) { "interrupted".into() } else { status.as_str().unwrap_or_default().to_lowercase() };
        self.record.insert("state".into(), state.into());
        if let Some(Value::Object(last)) = self.record.get_mut("invocations").and_then(Value::as_array_mut).and_then(|all| all.last_mut()) {
            last.insert("finished_at".into(), now().into());
            last.insert("status".into(), status);
            last.insert("error".into(), kind.map(Kind::name).into());
        }
        self.save()
    }

    /// Notes facts under one of the record's names; objects are joined. Written at the next begin or end.
    pub fn note(&mut self, name: &str, value: Value) {
        match (self.record.get_mut(name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
            (_, value) => drop(self.record.insert(name.to_string(), value)),
        }
    }

    fn save(&self) -> Result<()> {
        files::write_json(&self.folder.join("session.json"), &self.record)
    }
}

/// The record of a session; nothing where there is none.
pub fn read_record(folder: &Path) -> Result<Option<Map<String, Value>>> {
    let path = folder.join("session.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
            error::input(format!("{} is damaged ({cause}); move it away to go on, the steps are not affected", path.display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// Who holds a session's lock: its `{pid, host, start}`, or nothing.
pub fn lock_owner(folder: &Path) -> Option<Value> {
    let mut file = File::open(folder.join("lock")).ok()?;
    match file.try_lock_shared() {
        Ok(()) => None,
        Err(_) => {
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            Some(serde_json::from_str(&text).unwrap_or(Value::Null))
        }
    }
}

fn lock(folder: &Path, id: &str) -> Result<File> {
    let path = folder.join("lock");
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
    // A reader that looks whether the lock is held takes it for an instant: try for a while.
    let until = Instant::now() + Duration::from_millis(300);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::WouldBlock) => {
                let owner = lock_owner(folder).unwrap_or(Value::Null);
                return Err(error::busy(format!(
                    "session {id} is in use by process {} on {} since {}; wait for it, or use another session",
                    owner["pid"],
                    owner["host"].as_str().unwrap_or("?"),
                    owner["start"].as_str().unwrap_or("?")
                )));
            }
            Err(TryLockError::Error(cause)) => return Err(cause).with_context(|| format!("{} cannot be locked", path.display())),
        }
    }
    let owner = json!({"pid": std::process::id(), "host": host(), "start": now()});
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(owner.to_string().as_bytes())?;
    Ok(file)
}

fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "?".into(), |name| name.trim().to_string())
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

/// The step that this process runs: never two, for they would share one interpreter, one log and one set of streams.
pub(crate) struct Running(());

static RUNNING: Mutex<Option<String>> = Mutex::new(None);

impl Running {
    pub(crate) fn begin(session: &str, step: &str) -> Result<Running> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = running.as_deref() {
            return Err(error::busy(format!(
                "step {step} of session {session} cannot start: this process is running {other}; wait for it, or use another process"
            )));
        }
        *running = Some(format!("step {step} of session {session}"));
        Ok(Running(()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_accepted_name_stays_in_its_folder(name in ".{0,140}") {
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
    fn every_invocation_is_kept() {
        let runs = tempfile::tempdir().unwrap();
        for step in ["a", "b"] {
            let mut session = Session::open(runs.path(), "s1").unwrap();
            session.begin("merge", step, &["pyrust-nn".into(), "merge".into()]).unwrap();
            session.end(crate::Status::Success, None).unwrap();
        }
        let record = read_record(&runs.path().join("s1")).unwrap().unwrap();
        let steps: Vec<_> = record["invocations"].as_array().unwrap().iter().map(|one| one["step"].as_str().unwrap()).collect();
        assert_eq!(steps, ["a", "b"]);
        assert_eq!(record["state"], "success");
    }
}
