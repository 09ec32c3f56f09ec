//! What is known of the session that is watched.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use log::Level;

use crate::report::Curves;
use crate::session::{LogFilter, SessionState, StepProgress, last_records, session_state, working_folder};

/// Lines of the log.
const LOG_LINES: usize = 200;

/// The session as it was read last.
pub(super) struct Watched {
    runs: PathBuf,
    pub(super) state: SessionState,
    /// The training that runs, else the last one: its name and its curves.
    pub(super) training: Option<(String, Curves)>,
    pub(super) progress: Option<StepProgress>,
    pub(super) log: Vec<String>,
    pub(super) level: Level,
    /// The file of the curves and its length: a file that has not grown is not read again.
    read: Option<(PathBuf, u64)>,
}

impl Watched {
    /// # Errors
    /// Kind `usage` if there is no such session.
    pub(super) fn open(runs: &Path, session: &str, verbose: bool) -> Result<Watched> {
        Ok(Watched {
            runs: runs.to_path_buf(),
            state: session_state(runs, session)?,
            training: None,
            progress: None,
            log: Vec::new(),
            level: if verbose { Level::Debug } else { Level::Info },
            read: None,
        })
    }

    /// Reads the session.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let session = self.state.session.clone();
        self.state = session_state(&self.runs, &session)?;
        let filter = LogFilter { level: self.level, pattern: None, since: None };
        self.log = last_records(&self.runs, &session, &filter, LOG_LINES)?;
        let folder = self.runs.join(&session);
        let running = self.state.steps.last().filter(|step| step.state == "running");
        self.progress = running.and_then(|step| StepProgress::of_running(&folder, &step.step));
        let trained = self.state.steps.iter().rev().find_map(|step| {
            let path = working_folder(&folder, &step.step, step.state == "running").join("metrics.jsonl");
            let bytes = fs::metadata(&path).ok()?.len();
            Some((step.step.clone(), path, bytes))
        });
        let place = trained.as_ref().map(|(_, path, bytes)| (path.clone(), *bytes));
        if place != self.read {
            self.training = trained.map(|(name, path, _)| (name, Curves::read(&path)));
            self.read = place;
        }
        Ok(())
    }

    /// Shows fewer records of the log, or all of them again.
    pub(super) fn next_level(&mut self) {
        self.level = match self.level {
            Level::Info => Level::Warn,
            Level::Warn => Level::Error,
            Level::Error => Level::Debug,
            Level::Debug | Level::Trace => Level::Info,
        };
    }
}
