//! The session that a command reads, where the one that runs or the newest is meant if none is named.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::base::error;
use crate::session::{list_sessions, missing_folder};

#[derive(Args, Debug)]
pub(crate) struct ReadSession {
    /// Name of the session [default: the one that runs, or the newest]
    #[arg(value_name = "SESSION")]
    session: Option<String>,
}

impl ReadSession {
    /// Whether the user named it.
    pub(crate) fn is_named(&self) -> bool {
        self.session.is_some()
    }

    /// The name. An error of kind usage if none is named and there is none.
    pub(crate) fn name(&self, runs: &Path) -> Result<String> {
        self.session.clone().map_or_else(|| newest(runs), Ok)
    }
}

/// The session that runs, or the newest one.
fn newest(runs: &Path) -> Result<String> {
    let sessions = list_sessions(Some(runs))?;
    let last = sessions.iter().rev().find(|one| one.state == "running").or(sessions.last());
    let none = || {
        let why = missing_folder(runs).unwrap_or_else(|| "a first step makes one, --runs-dir names another folder".into());
        error::usage(format!("there is no session in {}: {why}", runs.display()))
    };
    last.map(|one| one.session.clone()).ok_or_else(none)
}
