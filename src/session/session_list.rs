//! The list of all sessions, with an index that makes it fast: `runs/.sessions.jsonl` keeps the state of each session that has ended, for as
//! long as its session.json is the same file. Every step writes session.json anew. The index may be removed at any time.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::base::files;
use crate::session::names::{check_name, runs_dir};
use crate::session::status::{SessionState, session_state};

const INDEX: &str = ".sessions.jsonl";
/// What a state means. Lines of another format are left out: 2 is the state of the step that most needs attention, before it was that of the last one.
const FORMAT: u8 = 2;

/// Which session.json it is: changed at each write.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct RecordVersion {
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct IndexEntry<State> {
    format: u8,
    record: RecordVersion,
    state: State,
}

/// The sessions that have ended, each for as long as its session.json is the same file. Whoever lists the sessions again and again keeps one:
/// then only what has changed is read.
#[derive(Debug, Default)]
pub(crate) struct SessionIndex {
    is_read: bool,
    settled: HashMap<String, (RecordVersion, Arc<SessionState>)>,
}

impl RecordVersion {
    /// That of the session in a folder. `None` if there is none.
    fn of(folder: &Path) -> Option<RecordVersion> {
        let found = fs::metadata(folder.join("session.json")).ok().filter(fs::Metadata::is_file)?;
        Some(RecordVersion { inode: found.ino(), bytes: found.len(), seconds: found.mtime(), nanoseconds: found.mtime_nsec() })
    }
}

/// All sessions, oldest first. Runs directory: the parameter `runs`, otherwise PYRUST_NN_RUNS, otherwise `runs`.
pub fn list_sessions(runs: Option<&Path>) -> Result<Vec<SessionState>> {
    let mut index = SessionIndex::default();
    let sessions = index.list(&runs_dir(runs))?;
    drop(index);
    Ok(sessions.into_iter().map(Arc::unwrap_or_clone).collect())
}

impl SessionIndex {
    /// All sessions in the folder `runs`, which is always the same one, oldest first.
    pub(crate) fn list(&mut self, runs: &Path) -> Result<Vec<Arc<SessionState>>> {
        let entries = match fs::read_dir(runs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", runs.display())),
        };
        if !self.is_read {
            self.settled = read_index(runs);
            self.is_read = true;
        }
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<Vec<_>>>();
        let names = names.with_context(|| format!("{} cannot be read", runs.display()))?;
        let settled = &self.settled;
        // In parallel: without an index each session's files are read.
        let found: Vec<(String, RecordVersion, Arc<SessionState>, bool)> = names
            .into_par_iter()
            .filter(|name| check_name("session", name).is_ok())
            .filter_map(|name| {
                let record = RecordVersion::of(&runs.join(&name))?;
                let known = settled.get(&name).filter(|(version, _)| *version == record).map(|(_, state)| Arc::clone(state));
                let is_new = known.is_none();
                let state = known.unwrap_or_else(|| Arc::new(state_or_damaged(runs, name.clone())));
                Some((name, record, state, is_new))
            })
            .collect();
        let (mut sessions, mut known, mut is_changed) = (Vec::with_capacity(found.len()), HashMap::new(), false);
        for (name, record, state, is_new) in found {
            sessions.push(Arc::clone(&state));
            // What runs, or was killed and may be resumed at any moment, is looked at each time.
            if !is_new || (state.state != "damaged" && state.steps.iter().all(|step| step.finished_at.is_some())) {
                is_changed |= is_new;
                known.insert(name, (record, state));
            }
        }
        is_changed |= self.settled.keys().any(|name| !known.contains_key(name));
        self.settled = known;
        if is_changed {
            // An index that cannot be written costs time only.
            drop(write_index(runs, &self.settled));
        }
        sessions.sort_by(|a, b| (&a.created, &a.session).cmp(&(&b.created, &b.session)));
        Ok(sessions)
    }
}

/// One damaged record must not hide the others.
fn state_or_damaged(runs: &Path, session: String) -> SessionState {
    session_state(runs, &session).unwrap_or_else(|_| SessionState {
        session,
        created: String::new(),
        state: "damaged".into(),
        size_bytes: 0,
        steps: Vec::new(),
    })
}

/// The index by session. A missing one is empty, and so are damaged lines.
fn read_index(runs: &Path) -> HashMap<String, (RecordVersion, Arc<SessionState>)> {
    let lines = files::read_own(&runs.join(INDEX)).unwrap_or_default();
    let entries = lines.par_split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<IndexEntry<SessionState>>(line).ok());
    let entries = entries.filter(|entry| entry.format == FORMAT);
    entries.map(|entry| (entry.state.session.clone(), (entry.record, Arc::new(entry.state)))).collect()
}

/// A line for each session.
fn write_index(runs: &Path, settled: &HashMap<String, (RecordVersion, Arc<SessionState>)>) -> Result<()> {
    let mut lines = Vec::new();
    for (record, state) in settled.values() {
        serde_json::to_writer(&mut lines, &IndexEntry { format: FORMAT, record: *record, state: state.as_ref() })?;
        lines.push(b'\n');
    }
    files::write_whole(&runs.join(INDEX), &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::record::Session;
    use crate::session::summary::Status;

    fn names_and_states(runs: &Path) -> Vec<(String, String)> {
        list_sessions(Some(runs)).unwrap().into_iter().map(|one| (one.session, one.state)).collect()
    }

    #[test]
    fn the_index_holds_what_has_ended_and_follows_every_change() {
        let runs = tempfile::tempdir().unwrap();
        let runs = runs.path();
        let step = |name: &str, status: Option<Status>| {
            let mut session = Session::open(runs, name).unwrap();
            session.begin("merge", "merge", "2026-01-01T00:00:00.000Z", &[]).unwrap();
            if let Some(status) = status {
                session.end(status, None).unwrap();
            }
        };
        step("a", Some(Status::Success));
        step("b", None);
        fs::create_dir(runs.join("c")).unwrap();
        fs::write(runs.join("c/session.json"), "{").unwrap();
        let wanted = |states: [&str; 3]| {
            ["c", "a", "b"].iter().zip(states).map(|(name, state)| (name.to_string(), state.to_string())).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            assert_eq!(names_and_states(runs), wanted(["damaged", "success", "interrupted"]));
            assert_eq!(read_index(runs).into_keys().collect::<Vec<_>>(), ["a"]);
        }
        step("b", Some(Status::Success));
        step("a", Some(Status::Failure));
        for _ in 0..2 {
            assert_eq!(names_and_states(runs), wanted(["damaged", "failure", "success"]));
        }
        assert_eq!(read_index(runs).len(), 2);
        fs::remove_dir_all(runs.join("a")).unwrap();
        assert_eq!(names_and_states(runs).len(), 2);
        assert_eq!(read_index(runs).into_keys().collect::<Vec<_>>(), ["b"]);
        let earlier = fs::read_to_string(runs.join(INDEX)).unwrap().replace("\"format\":2,", "").replace("success", "interrupted");
        fs::write(runs.join(INDEX), earlier).unwrap();
        assert_eq!(names_and_states(runs)[1].1, "success", "an index of an earlier build is not believed");
        fs::write(runs.join(INDEX), "[{").unwrap();
        assert_eq!(names_and_states(runs).len(), 2);
    }
}
