//! The page of a session: its report, what can be done with it, the end of its log.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use log::Level;
use serde_json::{Value, json};

use crate::board::pages::render;
use crate::report::{CurveFiles, Part, live_report};
use crate::session::lock::lock_owner;
use crate::session::{LogFilter, last_records};

/// Lines of the log.
const LOG_LINES: usize = 200;

/// The lowest level of the log's records that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LowestLevel {
    Debug,
    Info,
    Warning,
    Error,
}

impl LowestLevel {
    const ALL: [(LowestLevel, &'static str, Level); 4] = [
        (LowestLevel::Debug, "debug", Level::Debug),
        (LowestLevel::Info, "info", Level::Info),
        (LowestLevel::Warning, "warning", Level::Warn),
        (LowestLevel::Error, "error", Level::Error),
    ];

    /// The level of this name, by default `info`.
    pub(crate) fn of(name: &str) -> LowestLevel {
        LowestLevel::ALL.iter().find(|(_, known, _)| *known == name).map_or(LowestLevel::Info, |(level, ..)| *level)
    }

    pub(crate) fn name(self) -> &'static str {
        LowestLevel::ALL.iter().find(|(level, ..)| *level == self).map_or("info", |(_, name, _)| name)
    }

    fn lowest(self) -> Level {
        LowestLevel::ALL.iter().find(|(level, ..)| *level == self).map_or(Level::Info, |(.., lowest)| *lowest)
    }
}

/// What a session's files are, so that one that has not changed is not read: number, length and time of each, and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    files: Vec<(PathBuf, u64, u64, i64, i64)>,
    is_running: bool,
}

impl Fingerprint {
    pub(crate) fn of(runs: &Path, session: &str) -> Fingerprint {
        let folder = runs.join(session);
        let mut paths = vec![folder.join("session.json"), folder.join("pipeline.log")];
        let steps = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.extend(
            steps.flat_map(|step| ["metrics.jsonl", "samples.jsonl", "data_report.json", "summary.json"].map(|name| step.join(name))),
        );
        let found = paths.into_iter().filter_map(|path| {
            let about = fs::metadata(&path).ok()?;
            Some((path, about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
        });
        Fingerprint { files: found.collect(), is_running: lock_owner(&folder).is_some() }
    }
}

/// The parts of a session's page.
///
/// # Errors
/// Kind `usage` if there is no such session, `input` if its session.json is damaged, `io`.
pub(crate) fn session_parts(
    runs: &Path,
    session: &str,
    level: LowestLevel,
    root: &str,
    allow_control: bool,
    curves: &CurveFiles,
) -> Result<Vec<Part>> {
    let report = live_report(runs, session, curves)?;
    let control = json!({
        "root": root,
        "session": session,
        "allowed": allow_control,
        "is_running": report.is_running,
        "can_resume": report.can_resume && !report.is_running,
    });
    let part = |id: &str, template: &str, values: &Value| -> Result<Part> { Ok(Part { id: id.into(), html: render(template, values)? }) };
    let mut parts = report.parts;
    parts.insert(1, part("part-control", "session_control.html", &control)?);
    let filter = LogFilter { level: level.lowest(), pattern: None, since: None };
    let lines: Vec<Value> =
        last_records(runs, session, &filter, LOG_LINES)?.into_iter().map(|line| json!({"level": kind(&line), "text": line})).collect();
    let log = json!({
        "root": root,
        "session": session,
        "level": level.name(),
        "levels": LowestLevel::ALL.map(|(_, name, _)| name),
        "lines": lines,
        "most": LOG_LINES,
    });
    let end = parts.len() - 1;
    parts.insert(end, part("part-log", "session_log.html", &log)?);
    Ok(parts)
}

/// The class of a log line in the style sheet.
fn kind(line: &str) -> &'static str {
    match line.split_once(" [").and_then(|(_, rest)| rest.get(..5)) {
        Some("ERROR") => "bad",
        Some("WARN ") => "mid",
        Some("DEBUG") => "soft",
        _ => "",
    }
}
