//! `status`: shows the state of each step and the end of the log.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use log::Level;
use regex::Regex;
use serde_json::json;

use crate::base::clock::named_time;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::read_session::ReadSession;
use crate::cli::table::table;
use crate::cli::text::{duration, significant, visible};
use crate::cli::wrap::wrapped_below;
use crate::session::{LogFilter, LogPosition, SessionState, last_records, log_after, log_end, read_log, runs_dir, session_state};

/// How often `--follow` looks at the log.
const INTERVAL: Duration = Duration::from_millis(500);

/// Show the state of each step and the last lines of the log
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    session: ReadSession,
    /// Number of log lines to show
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Show new log lines until no step of the session runs
    #[arg(short, long)]
    follow: bool,
    /// Lowest level of the log records to show [default: info, with --verbose debug]
    #[arg(long, value_name = "LEVEL")]
    level: Option<LogLevel>,
    /// Show only log records that match this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<Regex>,
    /// Show only log records since then: `10m`, `2h`, `3d` ago, or a time in UTC such as `2026-11-26T20:00`
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<String>,
}

/// A level of log records.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Level {
        match level {
            LogLevel::Debug => Level::Debug,
            LogLevel::Info => Level::Info,
            LogLevel::Warning => Level::Warn,
            LogLevel::Error => Level::Error,
        }
    }
}

fn time(text: &str) -> Result<String, String> {
    named_time(text).ok_or_else(|| "give how long ago, such as 90s, 10m, 2h or 3d, or a time in UTC such as 2026-11-26T20:00".into())
}

impl StatusArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let session = self.session.name(&runs)?;
        let is_filtered = self.level.is_some() || self.grep.is_some() || self.since.is_some();
        let level = self.level.map_or(if global.verbose { Level::Debug } else { Level::Info }, Level::from);
        let filter = LogFilter { level, pattern: self.grep, since: self.since };
        if global.json && !self.follow {
            let state = session_state(&runs, &session)?;
            let log = if is_filtered {
                joined(&last_records(&runs, &session, &filter, self.lines)?)
            } else {
                read_log(&runs, &session, Some(self.lines))?
            };
            let SessionState { session, created, state, size_bytes, steps } = state;
            output::json(
                &json!({"session": session, "created": created, "state": state, "size_bytes": size_bytes, "steps": steps, "log": log}),
            );
            return Ok(0);
        }
        if !self.session.is_named() {
            output::line(&format!("session {session}"));
        }
        let state = session_state(&runs, &session)?;
        let end = log_end(&runs, &session)?;
        let shown = last_records(&runs, &session, &filter, self.lines)?;
        if !self.follow {
            print_steps(&state);
            output::line("");
            if shown.is_empty() && self.lines > 0 {
                output::line(&format!("no {}log records", if is_filtered { "such " } else { "" }));
            }
        }
        print_log(&shown);
        if self.follow { follow(&runs, &session, end, state, &filter) } else { Ok(0) }
    }
}

fn joined(lines: &[impl AsRef<str>]) -> String {
    lines.iter().flat_map(|line| [line.as_ref(), "\n"]).collect()
}

/// Prints lines of the log. Continuations are indented as the log's own are.
fn print_log(lines: &[impl AsRef<str>]) {
    let text = visible(&joined(lines));
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let hanging = |line: &str| if indent(line) > 0 { indent(line) + 2 } else { 4 };
    output::text(&output::stdout_width().map_or_else(|| text.clone(), |width| wrapped_below(&text, width, hanging)));
}

/// Prints new records of the log until no step runs, then the steps. `read`: the part of the log that is printed already.
fn follow(runs: &Path, session: &str, mut read: LogPosition, mut state: SessionState, filter: &LogFilter) -> Result<u8> {
    let mut is_shown = true;
    loop {
        let running = state.state == "running";
        let (new, end) = log_after(runs, session, read)?;
        print_log(&filter.select(&new, &mut is_shown));
        read = end;
        if !running {
            output::line("");
            print_steps(&state);
            return Ok(0);
        }
        std::thread::sleep(INTERVAL);
        state = session_state(runs, session)?;
    }
}

fn print_steps(state: &SessionState) {
    let mut rows = vec![["step", "task", "state", "time", "loss", "remaining"].map(String::from)];
    let number = |number: Option<f64>, form: fn(f64) -> String| number.map_or_else(|| "-".into(), form);
    rows.extend(state.steps.iter().map(|step| {
        let remaining = number(step.eta_seconds, duration);
        [
            step.step.clone(),
            step.task.clone(),
            step.state.clone(),
            number(step.duration_s, duration),
            number(step.loss, significant),
            remaining,
        ]
    }));
    table(&rows, None);
    for step in &state.steps {
        if let Some(error) = &step.error {
            output::line(&format!("{}: {}", step.step, visible(error)));
        }
    }
}
