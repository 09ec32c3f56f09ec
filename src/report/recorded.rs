//! What a session's folder says, read without its lock, so that a report can be made while a step runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::{error, files};
use crate::report::curve_files::CurveFiles;
use crate::report::curves::Curves;
use crate::session::record::read_record;
use crate::session::{SessionState, StepState, Summary, read_log, session_state, working_folder};

/// Lines at the end of the log in which warnings are looked for.
const LOG_LINES: usize = 20_000;
/// Bytes of a file that are read, such as a lineage.json.
const MAX_BYTES: u64 = 1 << 20;

/// A session as recorded.
#[derive(Debug)]
pub(crate) struct RecordedSession {
    pub state: SessionState,
    /// session.json.
    pub record: Map<String, Value>,
    /// In the order in which they began.
    pub steps: Vec<RecordedStep>,
    /// Steps of the pipeline that was run last, and that have not run.
    pub not_run: Vec<String>,
    /// Warnings of the log, each once with its number, in the order of their first occurrence.
    pub warnings: Vec<(String, usize)>,
    pub folder: PathBuf,
}

/// A step as recorded.
#[derive(Debug)]
pub(crate) struct RecordedStep {
    pub state: StepState,
    /// `None` if there is none yet, or it is damaged.
    pub summary: Option<Summary>,
    /// Of the summary, otherwise those with which the step began.
    pub params: Map<String, Value>,
    /// Whether it has recorded its inputs, without which it cannot be resumed.
    pub has_begun: bool,
    /// begun.json's `inputs`: files with their hashes, by parameter.
    pub inputs: Map<String, Value>,
    pub curves: Arc<Curves>,
    /// lineage.json of the adapter that the step made.
    pub lineage: Option<Value>,
    /// data_report.json of a training.
    pub data_report: Option<Value>,
    /// The lines of samples.jsonl.
    pub samples: Vec<Value>,
}

impl RecordedSession {
    /// Reads a session. Files of a step that are missing or damaged leave gaps.
    ///
    /// # Errors
    /// Kind `usage` if there is no such session; `input` if its session.json is damaged.
    pub(crate) fn read(runs: &Path, session: &str) -> Result<RecordedSession> {
        RecordedSession::read_with(runs, session, &CurveFiles::default())
    }

    /// The same, with files of curves that were read before.
    pub(crate) fn read_with(runs: &Path, session: &str, curves: &CurveFiles) -> Result<RecordedSession> {
        let state = session_state(runs, session)?;
        let folder = runs.join(session);
        let record = read_record(&folder)?.unwrap_or_default();
        let steps: Vec<RecordedStep> = state.steps.iter().map(|step| RecordedStep::read(&folder, step.clone(), curves)).collect();
        let planned = record.get("plan").and_then(|plan| plan["steps"].as_array()).into_iter().flatten();
        let names = planned.filter_map(|one| one["given"]["step"].as_str().or_else(|| one["task"].as_str()));
        let begun = |name: &str| steps.iter().any(|step| step.name() == name);
        let not_run = names.filter(|name| !begun(name)).map(ToString::to_string).collect();
        let warnings = warnings(&read_log(runs, session, Some(LOG_LINES)).unwrap_or_default());
        Ok(RecordedSession { state, record, steps, not_run, warnings, folder })
    }

    /// The steps, each by its last attempt: without a failed one that was made again.
    pub(crate) fn last_attempts(&self) -> Vec<&RecordedStep> {
        let again = |at: usize| self.steps[at + 1..].iter().any(|later| later.name() == self.steps[at].name());
        // A success stands also after an attempt to replace it, which is listed beside it.
        let shown = self.steps.iter().enumerate().filter(|(at, step)| step.succeeded() || !again(*at));
        shown.map(|(_, step)| step).collect()
    }

    /// The number of the step whose output `name` is, seen from the step `at`: `@step`, `session/step` or a path in the session.
    pub(crate) fn source(&self, name: &str, at: usize) -> Option<usize> {
        let inside = || Some(self.own_name(name)).filter(|own| *own != name);
        let relative =
            name.strip_prefix('@').or_else(|| name.strip_prefix(self.state.session.as_str())?.strip_prefix('/')).or_else(inside)?;
        let step = relative.split(['/', ':']).next()?;
        self.steps[..at].iter().rposition(|other| other.state.step == step)
    }

    /// A path in the session's folder as seen from there; any other text as it is.
    pub(crate) fn own_name<'a>(&self, path: &'a str) -> &'a str {
        let inside = self.folder.to_str().and_then(|folder| path.strip_prefix(folder)?.strip_prefix('/'));
        inside.unwrap_or(path)
    }

    /// The model that a step begins from: the `model` of the first step of its chain, as given.
    pub(crate) fn root_model(&self, at: usize) -> Option<&str> {
        let mut at = at;
        loop {
            let model = self.steps[at].model()?;
            match self.source(model, at) {
                Some(earlier) => at = earlier,
                None => return Some(model),
            }
        }
    }
}

impl RecordedStep {
    fn read(session: &Path, state: StepState, curves: &CurveFiles) -> RecordedStep {
        let folder = working_folder(session, &state.step, state.state == "running");
        let summary = Summary::read(&folder).ok().flatten();
        let begun = small_json(&folder.join("begun.json"));
        let has_begun = begun.is_some();
        let begun = begun.unwrap_or_default();
        let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let params = summary.as_ref().map_or_else(|| object(&begun["params"]), |summary| summary.params.clone());
        let adapter = summary.as_ref().and_then(|summary| summary.outputs.get("adapter")?.as_str());
        let lineage = adapter.and_then(|adapter| small_json(&session.join(adapter).join("lineage.json")));
        RecordedStep {
            has_begun,
            inputs: object(&begun["inputs"]),
            curves: curves.read(&folder.join("metrics.jsonl")),
            data_report: small_json(&folder.join("data_report.json")),
            samples: small_json_lines(&folder.join("samples.jsonl")),
            state,
            summary,
            params,
            lineage,
        }
    }

    /// The step's name, that of a failed attempt without its suffix.
    pub(crate) fn name(&self) -> &str {
        self.state.step.strip_suffix(".failed").unwrap_or(&self.state.step)
    }

    /// The parameter `model` or `adapter`, as given.
    pub(crate) fn model(&self) -> Option<&str> {
        self.params.get("model").and_then(Value::as_str).or_else(|| self.params.get("adapter").and_then(Value::as_str))
    }

    pub(crate) fn is_training(&self) -> bool {
        self.state.task.starts_with("finetune")
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.state.state == "success"
    }

    /// The tokens that a training had read after a step: so many epochs of its rows. `None` if it kept no data_report.json.
    pub(crate) fn tokens_at(&self, step: f64) -> Option<f64> {
        let of_epoch = self.data_report.as_ref()?["train_tokens"].as_f64()?;
        let epochs = &self.curves.named("epoch")?.points;
        let last = epochs.partition_point(|(at, _)| *at <= step).checked_sub(1)?;
        Some(epochs[last].1 * of_epoch)
    }

    pub(crate) fn number(&self, metric: &str) -> Option<f64> {
        self.summary.as_ref()?.metrics.get(metric)?.as_f64()
    }

    /// A count among the metrics. While a training runs, those of its data are known.
    pub(crate) fn count(&self, metric: &str) -> Option<u64> {
        let of_data = || self.data_report.as_ref()?["counts"][metric].as_u64();
        self.summary.as_ref().map_or_else(of_data, |summary| summary.metrics.get(metric)?.as_u64())
    }
}

/// The metrics of the steps that have some, by the step's name; of one step, if it is named.
///
/// # Errors
/// Kind `usage` if there is no such session, no such step in it, or no metrics.
pub(crate) fn metrics_of(runs: &Path, session: &str, step: Option<&str>) -> Result<Vec<(String, Curves)>> {
    let state = session_state(runs, session)?;
    let named = |other: &StepState| step.is_none_or(|step| other.step == step);
    if let Some(step) = step.filter(|_| !state.steps.iter().any(named)) {
        let known = state.steps.iter().map(|step| step.step.as_str()).collect::<Vec<_>>().join(", ");
        return Err(error::usage(format!("session {session} has no step {step}; it has {known}")));
    }
    let read = |step: &StepState| (step.step.clone(), Curves::read(&runs.join(session).join(&step.step).join("metrics.jsonl")));
    let found: Vec<_> = state.steps.iter().filter(|step| named(step)).map(read).filter(|(_, curves)| curves.lines > 0).collect();
    if found.is_empty() {
        let what = step.map_or_else(|| format!("session {session}"), |step| format!("step {step} of session {session}"));
        return Err(error::usage(format!("{what} has no metrics: they are written by a training, every logging_steps steps")));
    }
    Ok(found)
}

/// A JSON file of limited size. `None` if there is none.
fn small_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&small_file(path)?).ok()
}

/// The objects of a JSON Lines file of limited size.
fn small_json_lines(path: &Path) -> Vec<Value> {
    let text = small_file(path).unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).filter(Value::is_object).collect()
}

fn small_file(path: &Path) -> Option<Vec<u8>> {
    let file = files::open_own(path).ok()?;
    if file.metadata().ok()?.len() > MAX_BYTES {
        return None;
    }
    files::read_own(path).ok()
}

/// The warnings of a log. Further lines of a record are indented.
fn warnings(log: &str) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((_, text)) = line.split_once("Z [WARN ] ") else { continue };
        let mut text = text.split_once(": ").map_or(text, |(_, text)| text).to_string();
        while let Some(more) = lines.next_if(|line| line.starts_with("    ")) {
            text.push('\n');
            text.push_str(more.trim_start());
        }
        match found.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => found.push((text, 1)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_record_and_equal_ones_are_counted() {
        let log = "2026-01-01T00:00:00.000Z [WARN ] a: first\n    more\n2026-01-01T00:00:00.000Z [INFO ] a: other\n\
                   2026-01-01T00:00:00.000Z [WARN ] b: second\n2026-01-01T00:00:00.000Z [WARN ] a: first\n    more\n";
        assert_eq!(warnings(log), [("first\nmore".to_string(), 2), ("second".into(), 1)]);
    }
}
