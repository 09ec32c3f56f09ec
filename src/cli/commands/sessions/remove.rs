//! `sessions rm` and `sessions gc`: remove sessions, or what is no longer needed of them.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::base::clock::named_time;
use crate::base::error;
use crate::base::terminal::Terminal;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::table::table;
use crate::cli::text::bytes;
use crate::session::{SessionState, list_sessions, missing_folder, runs_dir};
use crate::step::removal::{Removable, failed_attempts, is_in_use, remove, spent_checkpoints};

/// What both commands ask before they remove something.
#[derive(Args, Debug)]
struct ConfirmArgs {
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove without asking
    #[arg(short, long)]
    yes: bool,
}

/// Remove whole sessions: those named, or those that match
#[derive(Args, Debug)]
pub(super) struct RmArgs {
    /// Names of sessions
    sessions: Vec<String>,
    /// Sessions in this state: success, failure, interrupted or damaged. A session in which a step succeeded is only in the state success
    #[arg(long, value_name = "STATE", conflicts_with = "sessions", value_parser = ["success", "failure", "interrupted", "damaged"])]
    state: Option<String>,
    /// Sessions in which nothing has run since then: `30d` or `4w` ago, or a date such as `2026-11-26`
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "sessions")]
    older_than: Option<String>,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// Remove what is no longer needed of all sessions, and keep the sessions
#[derive(Args, Debug)]
pub(super) struct GcArgs {
    /// The checkpoints of steps that succeeded
    #[arg(long)]
    checkpoints: bool,
    /// The folders of failed attempts beside an earlier success
    #[arg(long)]
    failed: bool,
    /// Only of sessions in which nothing has run since then: `30d` or `4w` ago, or a date such as `2026-11-26`
    #[arg(long, value_name = "TIME", value_parser = time)]
    older_than: Option<String>,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

fn time(text: &str) -> Result<String, String> {
    named_time(text).ok_or_else(|| "give how long ago, such as 12h, 30d or 4w, or a date such as 2026-11-26".into())
}

impl RmArgs {
    pub(super) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let names = if self.sessions.is_empty() {
            if self.state.is_none() && self.older_than.is_none() {
                return Err(error::usage("sessions rm needs the names of sessions, --state or --older-than"));
            }
            let found = unused(&runs, self.older_than.as_deref())?;
            found.into_iter().filter(|one| self.state.as_ref().is_none_or(|state| is_in_state(one, state))).map(|one| one.session).collect()
        } else {
            self.sessions
        };
        let parts = names.iter().map(|name| Removable::session(&runs, name)).collect::<Result<Vec<_>>>()?;
        self.confirm.remove(&runs, &parts, global.json)
    }
}

impl GcArgs {
    pub(super) fn run(&self, global: &GlobalArgs) -> Result<u8> {
        if !self.checkpoints && !self.failed {
            return Err(error::usage("sessions gc needs --checkpoints, --failed or both"));
        }
        let runs = runs_dir(global.runs_dir.as_deref());
        let mut parts = Vec::new();
        for session in unused(&runs, self.older_than.as_deref())? {
            if self.checkpoints {
                parts.extend(spent_checkpoints(&runs, &session));
            }
            if self.failed {
                parts.extend(failed_attempts(&runs, &session));
            }
        }
        self.confirm.remove(&runs, &parts, global.json)
    }
}

/// Whether a session may be removed as one in this state. One with a step that succeeded holds something, even if a later step failed.
fn is_in_state(session: &SessionState, state: &str) -> bool {
    session.state == state && (state == "success" || session.steps.iter().all(|step| step.state != "success"))
}

/// The sessions that no process uses, and in which nothing has run since `older_than`.
fn unused(runs: &Path, older_than: Option<&str>) -> Result<Vec<SessionState>> {
    let is_old = |session: &SessionState| {
        let last = session.steps.last().map_or(&session.created, |step| step.finished_at.as_ref().unwrap_or(&step.started_at));
        // The record of a damaged session does not say how old it is.
        older_than.is_none_or(|time| !last.is_empty() && last.as_str() < time)
    };
    let sessions = list_sessions(Some(runs))?;
    Ok(sessions.into_iter().filter(|session| is_old(session) && !is_in_use(runs, &session.session)).collect())
}

impl ConfirmArgs {
    /// Shows the parts, asks, and removes them.
    fn remove(&self, runs: &Path, parts: &[Removable], as_json: bool) -> Result<u8> {
        let total = parts.iter().map(|part| part.bytes).sum();
        if !as_json {
            print(runs, parts, total);
        }
        let is_removed = !parts.is_empty() && !self.dry_run && (self.yes || asked(as_json)?);
        if is_removed {
            remove(runs, parts)?;
        }
        if as_json {
            output::json(&json!({"parts": parts, "bytes": total, "removed": is_removed}));
        } else if is_removed {
            output::line(&format!("removed {}", bytes(total)));
        } else if !parts.is_empty() {
            output::line("nothing was removed");
        }
        Ok(0)
    }
}

fn print(runs: &Path, parts: &[Removable], total: u64) {
    if parts.is_empty() {
        let why = missing_folder(runs).map_or_else(String::new, |why| format!(": {why}"));
        output::line(&format!("there is nothing to remove{why}"));
        return;
    }
    let mut rows = vec![["session", "part", "size"].map(String::from)];
    rows.extend(parts.iter().map(|part| [part.session.clone(), part.part.clone(), bytes(part.bytes)]));
    rows.push(["total".into(), String::new(), bytes(total)]);
    table(&rows, Some(1));
}

/// Asks whether it shall be removed.
///
/// # Errors
/// Kind `usage` if nobody can answer.
fn asked(as_json: bool) -> Result<bool> {
    if as_json || !std::io::stdin().is_terminal() || !Terminal::Stderr.is_terminal() {
        return Err(error::usage("nobody can be asked here; give --yes to remove it, or --dry-run to see it only"));
    }
    write!(Terminal::Stderr, "remove it? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
