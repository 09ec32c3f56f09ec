//! `status`: shows the state of each step and the end of the log.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::table::table;
use crate::cli::text::{duration, significant, visible};
use crate::session::{SessionState, log_after, log_bytes, read_log, runs_dir, session_state};

/// How often `--follow` looks at the log.
const INTERVAL: Duration = Duration::from_millis(500);

/// Show the state of each step and the last lines of the log
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Name of the session
    session: String,
    /// Number of log lines to show
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Show new log lines until no step of the session runs
    #[arg(short, long)]
    follow: bool,
}

impl StatusArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        if global.json && !self.follow {
            let (state, log) = (session_state(&runs, &self.session)?, read_log(&runs, &self.session, Some(self.lines))?);
            let SessionState { session, created, state, size_bytes, steps } = state;
            output::json(
                &json!({"session": session, "created": created, "state": state, "size_bytes": size_bytes, "steps": steps, "log": log}),
            );
            return Ok(0);
        }
        let state = session_state(&runs, &self.session)?;
        // Debug records are left out, so more lines are read than shown.
        let end = log_bytes(&runs, &self.session);
        let log = read_log(&runs, &self.session, Some(self.lines.saturating_mul(4).saturating_add(400)))?;
        if !self.follow {
            print_steps(&state);
        }
        let shown = readable(&log, global.verbose);
        let first = shown.len().saturating_sub(self.lines);
        if !self.follow {
            output::line("");
        }
        output::text(&shown[first..].iter().map(|line| visible(line) + "\n").collect::<String>());
        if self.follow { follow(&runs, &self.session, end, state, global.verbose) } else { Ok(0) }
    }
}

/// Prints new lines of the log until no step runs, then the steps. `read`: the bytes of the log that are printed already.
fn follow(runs: &Path, session: &str, mut read: u64, mut state: SessionState, verbose: bool) -> Result<u8> {
    loop {
        let running = state.state == "running";
        let (new, end) = log_after(runs, session, read)?;
        output::text(&readable(&new, verbose).iter().map(|line| visible(line) + "\n").collect::<String>());
        output::flush();
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

/// The lines of the log without debug records, such as tracebacks; all lines if `verbose`.
fn readable(log: &str, verbose: bool) -> Vec<&str> {
    let mut shown = true;
    let lines = log.lines().filter(|line| {
        // Further lines of a record are indented.
        if !line.starts_with(' ') {
            shown = !line.contains("Z [DEBUG] ");
        }
        shown || verbose
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_records_are_left_out_with_all_their_lines() {
        let log = "2026-01-01T00:00:00.000Z [DEBUG] a: Traceback\n    File\n2026-01-01T00:00:00.000Z [ERROR] b: failed\n    caused by: c\n";
        assert_eq!(readable(log, false), ["2026-01-01T00:00:00.000Z [ERROR] b: failed", "    caused by: c"]);
        assert_eq!(readable(log, true).len(), 4);
    }
}
