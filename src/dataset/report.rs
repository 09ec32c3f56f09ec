//! The report of `check`: a data set's statistics and problems, and an estimate of the training.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::cache;
use crate::data::{Bin, Counts, Dataset, Preview, PreviewSelection, Survey, TooLong, Transformers};
use crate::estimate::{Estimate, EstimateSettings, RowCounts, TrainingTime};
use crate::python::TimingProbe;
use crate::{data, estimate, python};

/// Everything that `check` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Whether training would accept the data: no problems, no errors.
    pub ok: bool,
    pub files: Vec<PathBuf>,
    /// The folder of the model whose tokenizer and chat template were used.
    pub model: PathBuf,
    /// The first faults in the files, in order.
    pub problems: Vec<ReportedFault>,
    /// Number of all faults in the files.
    pub problem_count: u64,
    /// Why training would refuse the data, besides the faults in the files.
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
    /// What is converted, and how often.
    #[serde(default)]
    pub notes: Vec<String>,
    pub counts: Counts,
    /// Rows that `eval_split` holds out, of `counts.rows`.
    pub eval_rows: u64,
    /// Messages by role.
    pub roles: Map<String, Value>,
    pub lengths: LengthReport,
    pub too_long: TooLongReport,
    pub previews: Vec<Preview>,
    pub estimate: Estimate,
}

/// A fault in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedFault {
    pub file: PathBuf,
    /// From 1; 0 for a fault of the whole file.
    pub line: usize,
    /// From 1, in characters; 0 for a fault of the whole file.
    pub column: usize,
    /// Path in the JSON, such as `[3].messages[1].role`; empty for a fault without one.
    pub path: String,
    pub text: String,
}

/// Lengths of the rows in tokens, after truncation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthReport {
    pub median: u32,
    pub p90: u32,
    pub p99: u32,
    pub max: u32,
    pub histogram: Vec<Bin>,
}

/// Samples of more than `max_length` tokens, before truncation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooLongReport {
    pub count: u64,
    /// The first of them.
    pub first: Vec<TooLong>,
}

impl CheckReport {
    /// Makes the report. `params`: the resolved parameters of `check`. `tell` gets the bytes done and the total bytes.
    ///
    /// # Errors
    /// Those of [`data::survey`] and of the estimate; with `probe`, those that Python raises.
    pub(crate) fn of(
        dataset: &Dataset,
        params: &Map<String, Value>,
        transformers: &dyn Transformers,
        tell: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<CheckReport> {
        let settings: EstimateSettings = serde_json::from_value(Value::Object(params.clone()))?;
        let survey = data::survey(dataset, &cache::folder(), transformers, &chosen(params)?, tell)?;
        let rows = RowCounts {
            train: survey.counts.rows - survey.eval_rows,
            longest: u64::from(survey.lengths.max()),
            longest_targets: u64::from(survey.longest_targets),
            tokens: survey.counts.tokens,
            targets: survey.counts.target_tokens,
        };
        let (mut estimate, refusals) = estimate::estimate(&dataset.model_folder, &settings, rows)?;
        let mut errors = survey.errors.clone();
        errors.extend(refusals);
        let ok = survey.problem_count == 0 && errors.is_empty();
        if params["probe"] == Value::Bool(true) {
            match time(dataset, params, &settings, &survey, &estimate)? {
                Ok(time) => estimate.time = Some(time),
                Err(why) => estimate.missing.push(format!("time: {why}")),
            }
        }
        let Survey { counts, eval_rows, warnings, notes, previews, too_long, too_long_count, lengths, .. } = survey;
        let problems = survey.problems.into_iter().map(|problem| ReportedFault {
            file: dataset.names.get(problem.file).cloned().unwrap_or_default(),
            line: problem.line,
            column: problem.column,
            path: problem.path,
            text: problem.text,
        });
        Ok(CheckReport {
            ok,
            files: dataset.names.clone(),
            model: dataset.model_folder.clone(),
            problems: problems.collect(),
            problem_count: survey.problem_count,
            errors,
            warnings,
            notes,
            counts,
            eval_rows,
            roles: survey.roles.into_iter().map(|(role, count)| (role.to_string(), count.into())).collect(),
            lengths: LengthReport {
                median: lengths.quantile(0.5),
                p90: lengths.quantile(0.9),
                p99: lengths.quantile(0.99),
                max: lengths.max(),
                histogram: lengths.histogram(),
            },
            too_long: TooLongReport { count: too_long_count, first: too_long },
            previews,
            estimate,
        })
    }
}

fn chosen(params: &Map<String, Value>) -> Result<PreviewSelection> {
    match &params["show_index"] {
        Value::Null => Ok(PreviewSelection::First(serde_json::from_value(params["show"].clone())?)),
        indices => Ok(PreviewSelection::Indices(serde_json::from_value(indices.clone())?)),
    }
}

/// Times a row of median length with the mean share of targets, and computes the training time from tokens and steps.
fn time(
    dataset: &Dataset,
    params: &Map<String, Value>,
    settings: &EstimateSettings,
    survey: &Survey,
    estimate: &Estimate,
) -> Result<Result<TrainingTime, String>> {
    let (counts, tokens) = (&survey.counts, u64::from(survey.lengths.quantile(0.5)));
    if counts.rows == 0 || survey.counts.rows == survey.eval_rows {
        return Ok(Err("there is no training row to measure".into()));
    }
    let targets = (tokens * counts.target_tokens / counts.tokens).clamp(1, tokens.saturating_sub(1).max(1));
    let probe = TimingProbe {
        folder: &dataset.model_folder,
        tokens,
        targets,
        device: settings.device.as_str(),
        dtype: settings.dtype.as_str(),
        full: settings.task == estimate::FinetuneMethod::FinetuneFull,
        lora_rank: settings.lora_rank,
        target_modules: settings.target_modules.as_deref(),
        offline: params["offline"] == Value::Bool(true),
    };
    let timed = python::time_rows(&probe)?;
    let train = (counts.rows - survey.eval_rows) as f64;
    let epochs = settings.num_epochs;
    let tokens_seen = counts.tokens as f64 / counts.rows as f64 * train * epochs;
    let passes = tokens_seen / tokens as f64 * timed.row_seconds;
    let seconds = passes + timed.step_seconds * estimate.steps as f64;
    Ok(Ok(TrainingTime { seconds, tokens_per_second: tokens_seen / seconds, row_tokens: tokens, row_target_tokens: targets }))
}
