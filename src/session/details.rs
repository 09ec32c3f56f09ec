//! What a step's files say about it: model, loss, remaining time, error, size.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::files;
use crate::base::lines_from_end::LinesFromEnd;
use crate::session::summary::Summary;

/// What is known of a step from its folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepDetails {
    pub model: Option<String>,
    /// Seconds, of a step that has ended.
    pub duration_s: Option<f64>,
    pub loss: Option<f64>,
    /// Seconds until the end of a training, as last estimated.
    pub eta_seconds: Option<f64>,
    /// The error in one line.
    pub error: Option<String>,
}

impl StepDetails {
    /// Reads summary.json, or begun.json and metrics.jsonl of a step without a summary. Missing and damaged files give nothing.
    pub(crate) fn read(folder: &Path) -> StepDetails {
        let text = |value: &Value| value.as_str().map(ToString::to_string);
        if let Ok(Some(summary)) = Summary::read(folder) {
            let model = summary.params.get("model").or_else(|| summary.params.get("adapter"));
            return StepDetails {
                model: model.and_then(text),
                duration_s: Some(summary.duration_s),
                loss: summary.metrics.get("last_loss").and_then(Value::as_f64).or_else(|| last_of(folder, "loss")),
                eta_seconds: None,
                error: summary.error.map(|error| error.message.lines().next().unwrap_or_default().to_string()),
            };
        }
        let begun: Value =
            files::read_own(&folder.join("begun.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        StepDetails {
            model: text(&begun["params"]["model"]).or_else(|| text(&begun["params"]["adapter"])),
            loss: last_of(folder, "loss"),
            eta_seconds: last_of(folder, "eta_seconds"),
            ..StepDetails::default()
        }
    }
}

/// Where a step keeps its files. One that replaces an earlier success works beside it.
pub(crate) fn working_folder(session: &Path, step: &str, is_running: bool) -> PathBuf {
    let replacement = session.join(format!("{step}.new"));
    if is_running && replacement.is_dir() { replacement } else { session.join(step) }
}

/// The last number of that name in metrics.jsonl.
fn last_of(folder: &Path, name: &str) -> Option<f64> {
    let mut lines = LinesFromEnd::open(&folder.join("metrics.jsonl")).ok()?.map_while(Result::ok);
    lines.find_map(|line| serde_json::from_str::<Value>(&line).ok()?.get(name)?.as_f64())
}

/// Bytes of all files below a folder. Links are not followed.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
            Ok(found) if found.is_file() => found.len(),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_a_summary_is_read_from_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("begun.json"), r#"{"params": {"model": "m"}}"#).unwrap();
        let lines = "{\"step\": 1, \"loss\": 2.5, \"eta_seconds\": 9.5}\n{\"step\": 2, \"eval_loss\": 1.0}\n{\"step\": 3, \"lo";
        fs::write(folder.path().join("metrics.jsonl"), lines).unwrap();
        let details = StepDetails::read(folder.path());
        assert_eq!((details.model.as_deref(), details.loss, details.eta_seconds), (Some("m"), Some(2.5), Some(9.5)));
        assert_eq!(folder_bytes(folder.path()), lines.len() as u64 + 26);
        let nothing = StepDetails::read(&folder.path().join("nowhere"));
        assert!(nothing.model.is_none() && nothing.loss.is_none() && nothing.error.is_none());
    }
}
