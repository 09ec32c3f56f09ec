//! `sessions rm`, `sessions gc` and `sessions archive`: remove sessions, or what is no longer needed of them, or keep them as archives.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::base::clock::named_time;
use crate::base::signals::Handlers;
use crate::base::terminal::Terminal;
use crate::base::{error, files, signals};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::table::table;
use crate::cli::text::bytes;
use crate::session::{SessionState, list_sessions, missing_folder, runs_dir};
use crate::step::removal::{Removable, archive_session, failed_attempts, is_in_use, remove, spent_checkpoints};

/// What the commands ask before they remove something.
#[derive(Args, Debug)]
struct ConfirmArgs {
    /// Show what would be removed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

/// The sessions that are meant.
#[derive(Args, Debug)]
struct ChosenArgs {
    /// Names of sessions
    sessions: Vec<String>,
    /// Sessions in this state: success, failure, interrupted or damaged. A session in which a step succeeded is only in the state success
    #[arg(long, value_name = "STATE", conflicts_with = "sessions", value_parser = ["success", "failure", "interrupted", "damaged"])]
    state: Option<String>,
    /// Sessions in which nothing has run since then: `30d` or `4w` ago, or a date such as `2026-11-26`
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "sessions")]
    older_than: Option<String>,
}

/// Remove whole sessions: those named, or those that match
#[derive(Args, Debug)]
pub(super) struct RmArgs {
    #[command(flatten)]
    chosen: ChosenArgs,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// Write sessions into archives, check every file in them, and remove the sessions. `import` brings one back
#[derive(Args, Debug)]
pub(super) struct ArchiveSessionsArgs {
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Folder of the archives, <SESSION>.tar.zst each
    #[arg(long, value_name = "DIR", default_value = ".")]
    into: PathBuf,
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

impl ChosenArgs {
    /// The sessions for the command `name`.
    fn parts(self, name: &str, runs: &Path) -> Result<Vec<Removable>> {
        let names = if self.sessions.is_empty() {
            if self.state.is_none() && self.older_than.is_none() {
                return Err(error::usage(format!("sessions {name} needs the names of sessions, --state or --older-than")));
            }
            let found = unused(runs, self.older_than.as_deref())?;
            found.into_iter().filter(|one| self.state.as_ref().is_none_or(|state| is_in_state(one, state))).map(|one| one.session).collect()
        } else {
            self.sessions
        };
        names.iter().map(|name| Removable::session(runs, name)).collect()
    }
}

impl RmArgs {
    pub(super) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let parts = self.chosen.parts("rm", &runs)?;
        self.confirm.act(&runs, &parts, global.json, &REMOVE, &mut |parts| remove(&runs, parts))
    }
}

impl ArchiveSessionsArgs {
    pub(super) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let parts = self.chosen.parts("archive", &runs)?;
        let into = self.into;
        let target = |part: &Removable| into.join(format!("{}.tar.zst", part.session));
        if let Some(part) = parts.iter().find(|part| target(part).exists()) {
            let path = target(part).display().to_string();
            return Err(error::usage(format!("{path} exists already; remove it or name another folder with --into")));
        }
        self.confirm.act(&runs, &parts, global.json, &ARCHIVE, &mut |parts| {
            let _signals = Handlers::note_signals();
            files::create_folders(&into)?;
            for part in parts {
                let exported = archive_session(&runs, part, &target(part), &signals::check)?;
                if !global.json {
                    output::line(&format!("{}: {} in {}", exported.path.display(), bytes(exported.content_bytes), bytes(exported.bytes)));
                }
            }
            Ok(())
        })
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
        self.confirm.act(&runs, &parts, global.json, &REMOVE, &mut |parts| remove(&runs, parts))
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

/// What is said of an action.
struct ActionWords {
    verb: &'static str,
    done: &'static str,
}

const REMOVE: ActionWords = ActionWords { verb: "remove", done: "removed" };
const ARCHIVE: ActionWords = ActionWords { verb: "archive", done: "archived" };

impl ConfirmArgs {
    /// Shows the parts, asks, and acts.
    fn act(
        &self,
        runs: &Path,
        parts: &[Removable],
        as_json: bool,
        words: &ActionWords,
        action: &mut dyn FnMut(&[Removable]) -> Result<()>,
    ) -> Result<u8> {
        let total = parts.iter().map(|part| part.bytes).sum();
        if !as_json {
            print(runs, parts, total, words);
        }
        let is_done = !parts.is_empty() && !self.dry_run && (self.yes || asked(as_json, words)?);
        if is_done {
            action(parts)?;
        }
        if as_json {
            output::json(&json!({"parts": parts, "bytes": total, words.done: is_done}));
        } else if is_done {
            output::line(&format!("{} {}", words.done, bytes(total)));
        } else if !parts.is_empty() {
            output::line(&format!("nothing was {}", words.done));
        }
        Ok(0)
    }
}

fn print(runs: &Path, parts: &[Removable], total: u64, words: &ActionWords) {
    if parts.is_empty() {
        let why = missing_folder(runs).map_or_else(String::new, |why| format!(": {why}"));
        output::line(&format!("there is nothing to {}{why}", words.verb));
        return;
    }
    let mut rows = vec![["session", "part", "size"].map(String::from)];
    rows.extend(parts.iter().map(|part| [part.session.clone(), part.part.clone(), bytes(part.bytes)]));
    rows.push(["total".into(), String::new(), bytes(total)]);
    table(&rows, Some(1));
}

/// Asks whether it shall be done.
///
/// # Errors
/// Kind `usage` if nobody can answer.
fn asked(as_json: bool, words: &ActionWords) -> Result<bool> {
    if as_json || !std::io::stdin().is_terminal() || !Terminal::Stderr.is_terminal() {
        let verb = words.verb;
        return Err(error::usage(format!("nobody can be asked here; give --yes to {verb} it, or --dry-run to see it only")));
    }
    write!(Terminal::Stderr, "{} it? [y/N] ", words.verb)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
