//! `sessions`: lists the sessions, oldest first.

mod remove;

use std::cmp::Ordering;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::base::clock::seconds_since;
use crate::base::error::did_you_mean;
use crate::cli::commands::sessions::remove::{ArchiveSessionsArgs, GcArgs, RmArgs};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::table::table;
use crate::cli::text::{bytes, duration, significant};
use crate::cli::wrap::tail;
use crate::session::{SessionState, list_sessions, missing_folder, runs_dir};

/// Columns of a model's name.
const MODEL_COLUMNS: usize = 28;
/// Columns of a session's name on a terminal.
const SESSION_COLUMNS: usize = 32;

/// List the sessions, or remove or archive some
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    action: Option<SessionsAction>,
    /// Sort by this column; the default is the age, oldest first
    #[arg(long, value_name = "COLUMN")]
    sort: Option<Column>,
    /// Sort in the opposite order
    #[arg(short, long)]
    reverse: bool,
    /// List only sessions whose column contains the text: `--filter state=failure`. Can be repeated
    #[arg(long, value_name = "COLUMN=TEXT", value_parser = filter)]
    filter: Vec<(Column, String)>,
}

#[derive(Debug, Subcommand)]
enum SessionsAction {
    Rm(RmArgs),
    Archive(ArchiveSessionsArgs),
    Gc(GcArgs),
}

/// A column of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Column {
    Session,
    State,
    Model,
    Task,
    Loss,
    Size,
    Age,
}

fn filter(text: &str) -> Result<(Column, String), String> {
    let (column, wanted) = text.split_once('=').ok_or("give COLUMN=TEXT, such as state=failure")?;
    let names = Column::value_variants().iter().filter_map(|known| Some(known.to_possible_value()?.get_name().to_string()));
    let names: Vec<String> = names.collect();
    let near = did_you_mean(column, names.iter().map(String::as_str)).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let unknown = || format!("there is no column {column}; the columns are {}{near}", names.join(", "));
    Ok((Column::from_str(column, false).map_err(|_| unknown())?, wanted.to_string()))
}

impl SessionsArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        match self.action {
            Some(SessionsAction::Rm(args)) => args.run(global),
            Some(SessionsAction::Gc(args)) => args.run(global),
            Some(SessionsAction::Archive(args)) => args.run(global),
            None => self.list(global),
        }
    }

    fn list(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let mut sessions = list_sessions(Some(&runs))?;
        let is_empty = sessions.is_empty();
        sessions.retain(|session| self.filter.iter().all(|(column, wanted)| cell(session, *column).contains(wanted)));
        if let Some(column) = self.sort {
            sessions.sort_by(|a, b| compare(a, b, column));
        }
        if self.reverse {
            sessions.reverse();
        }
        if global.json {
            output::json(&json!(sessions));
        } else if sessions.is_empty() {
            let such = if is_empty { "" } else { "such " };
            let place = missing_folder(&runs).map_or_else(|| format!(" in {}", runs.display()), |why| format!(": {why}"));
            output::line(&format!("no {such}sessions{place}"));
        } else {
            let columns = Column::value_variants();
            let mut rows = vec![["session", "state", "model", "task", "loss", "size", "age"].map(String::from)];
            rows.extend(sessions.iter().map(|session| std::array::from_fn(|i| shown(session, columns[i]))));
            table(&rows, Some(2));
        }
        Ok(0)
    }
}

fn compare(a: &SessionState, b: &SessionState, column: Column) -> Ordering {
    match column {
        // Without a loss last.
        Column::Loss => loss(a).unwrap_or(f64::INFINITY).total_cmp(&loss(b).unwrap_or(f64::INFINITY)),
        Column::Size => a.size_bytes.cmp(&b.size_bytes),
        Column::Age => b.created.cmp(&a.created),
        _ => cell(a, column).cmp(&cell(b, column)),
    }
}

/// The loss of the last training.
fn loss(session: &SessionState) -> Option<f64> {
    session.steps.iter().rev().find_map(|step| step.loss)
}

/// The value of a column. The model is that of the first step, the task that of the last.
fn cell(session: &SessionState, column: Column) -> String {
    let some = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    match column {
        Column::Session => session.session.clone(),
        Column::State => session.state.clone(),
        Column::Model => some(session.steps.iter().find_map(|step| step.model.clone())),
        Column::Task => some(session.steps.last().map(|step| step.task.clone())),
        Column::Loss => some(loss(session).map(significant)),
        Column::Size => bytes(session.size_bytes),
        Column::Age => some(seconds_since(&session.created).map(duration)),
    }
}

/// A cell as the table shows it.
fn shown(session: &SessionState, column: Column) -> String {
    let text = cell(session, column);
    let most = match column {
        Column::Model => MODEL_COLUMNS,
        // Somebody who pipes the list reads the names.
        Column::Session if output::stdout_width().is_some() => SESSION_COLUMNS,
        _ => return text,
    };
    tail(&text, most)
}
