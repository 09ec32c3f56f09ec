//! How far a running training is, from the last line of its metrics.jsonl and the parameters with which it began.

use std::path::Path;

use serde_json::Value;

use crate::base::files;
use crate::base::lines_from_end::LinesFromEnd;
use crate::session::details::working_folder;

/// Lines at the end of metrics.jsonl in which the numbers are looked for: an evaluation has a line of its own.
const LINES: usize = 20;

/// How far a training is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StepProgress {
    /// Training steps that are done, and of how many.
    pub step: u64,
    pub steps: Option<u64>,
    /// Between 0 and 1.
    pub fraction: Option<f64>,
    pub loss: Option<f64>,
    pub tokens_per_second: Option<f64>,
    /// Seconds, as last estimated.
    pub eta_seconds: Option<f64>,
}

impl StepProgress {
    /// That of a step that runs. `None` if it has logged nothing yet, or is no training.
    pub(crate) fn of_running(session: &Path, step: &str) -> Option<StepProgress> {
        let folder = working_folder(session, step, true);
        let lines = LinesFromEnd::open(&folder.join("metrics.jsonl")).ok()?.map_while(Result::ok).take(LINES);
        let records: Vec<Value> = lines.filter_map(|line| serde_json::from_str(&line).ok()).collect();
        let number = |name: &str| records.iter().find_map(|record| record[name].as_f64());
        let done = number("step")?;
        let begun: Value = serde_json::from_slice(&files::read_own(&folder.join("begun.json")).ok()?).ok()?;
        let epochs = begun["params"]["num_epochs"].as_f64().filter(|epochs| *epochs > 0.0);
        let fraction = number("epoch").zip(epochs).map(|(epoch, epochs)| (epoch / epochs).clamp(0.0, 1.0));
        Some(StepProgress {
            step: done as u64,
            steps: fraction.filter(|fraction| *fraction > 0.0).map(|fraction| (done / fraction).round() as u64),
            fraction,
            loss: number("loss"),
            tokens_per_second: number("tokens_per_second"),
            eta_seconds: number("eta_seconds"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_training_that_replaces_an_earlier_one_is_as_far_as_its_last_lines_say() {
        let session = tempfile::tempdir().unwrap();
        assert_eq!(StepProgress::of_running(session.path(), "tune"), None);
        for (folder, step) in [("tune", 99), ("tune.new", 30)] {
            let folder = session.path().join(folder);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("begun.json"), r#"{"params": {"num_epochs": 4}}"#).unwrap();
            let lines = format!(
                "{{\"step\": 10, \"epoch\": 0.5, \"loss\": 3.0, \"tokens_per_second\": 100}}\n\
                 {{\"step\": {step}, \"epoch\": 1.5, \"eval_loss\": 2.0, \"eta_seconds\": 60}}\n{{\"step\": 4"
            );
            fs::write(folder.join("metrics.jsonl"), lines).unwrap();
        }
        let found = StepProgress::of_running(session.path(), "tune").unwrap();
        assert_eq!((found.step, found.steps, found.fraction), (30, Some(80), Some(0.375)));
        assert_eq!((found.loss, found.eta_seconds, found.tokens_per_second), (Some(3.0), Some(60.0), Some(100.0)));
    }
}
