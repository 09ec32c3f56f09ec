//! The report of `check`: a data set's statistics and problems, and an estimate of the training.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::cache;
use crate::base::numbers::counted;
use crate::data::{Bin, Counts, Dataset, Preview, PreviewSelection, Survey, TooLong, Transformers, TurnTokens};
use crate::dataset::open::own_folder;
use crate::estimate::{Estimate, EstimateSettings, RowCounts, TrainingTime};
use crate::python::TimingProbe;
use crate::{data, estimate, python};

/// Leaks in the report, and in the words of its warning.
const LEAKS: usize = 20;
const LEAKS_NAMED: usize = 5;

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
    /// What each kind of turn contributes to the rows, without kinds that do not occur.
    pub turns: Vec<TurnTokens>,
    /// The data set of `eval_dataset_path`.
    pub evaluation: Option<EvaluationReport>,
    pub lengths: LengthReport,
    pub too_long: TooLongReport,
    pub previews: Vec<Preview>,
    pub estimate: Estimate,
}

/// The data set for evaluation. Its problems, errors and warnings are among those of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationReport {
    pub files: Vec<PathBuf>,
    pub counts: Counts,
    /// Number of its conversations that are in the training data too.
    pub leaked: u64,
    /// The first of them.
    pub first_leaked: Vec<Leak>,
}

/// A conversation of both data sets, by its indices from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    pub evaluation: usize,
    pub training: usize,
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
    /// Makes the report. `params`: the resolved parameters of `check`; `evaluation`: the data set for evaluation. `tell` gets the bytes
    /// done and the total bytes.
    ///
    /// # Errors
    /// Those of [`data::survey`] and of the estimate; with `probe`, those that Python raises.
    pub(crate) fn of(
        dataset: &Dataset,
        evaluation: Option<&Dataset>,
        params: &Map<String, Value>,
        transformers: &dyn Transformers,
        tell: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<CheckReport> {
        let model = own_folder(params)?;
        let settings: EstimateSettings = serde_json::from_value(Value::Object(params.clone()))?;
        let survey = data::survey(dataset, &cache::folder(), transformers, &chosen(params)?, evaluation.is_some(), tell)?;
        let rows = RowCounts {
            train: survey.counts.rows - survey.eval_rows,
            longest: u64::from(survey.lengths.max()),
            longest_targets: u64::from(survey.longest_targets),
            tokens: survey.counts.tokens,
            targets: survey.counts.target_tokens,
        };
        let (mut estimate, refusals) = estimate::estimate(&model, &settings, rows)?;
        let mut survey = survey;
        survey.errors.extend(refusals);
        let mut problems = faults(dataset, &survey);
        let evaluation = match evaluation {
            Some(held_out) => {
                let none = PreviewSelection::First(0);
                let other = data::survey(held_out, &cache::folder(), transformers, &none, true, tell)?;
                problems.extend(faults(held_out, &other));
                let report = EvaluationReport::of(held_out, &other, &survey);
                add_evaluation(&mut survey, &other, &report);
                if settings.options.eval_split > 0.0 {
                    survey.errors.push(
                        "eval_dataset_path and eval_split cannot both be set, since each says what to evaluate on; set one of them".into(),
                    );
                }
                Some(report)
            }
            None => None,
        };
        let ok = survey.problem_count == 0 && survey.errors.is_empty();
        if params["probe"] == Value::Bool(true) {
            match time(&model, params, &settings, &survey, &estimate)? {
                Ok(time) => estimate.time = Some(time),
                Err(why) => estimate.missing.push(format!("time: {why}")),
            }
        }
        let Survey { counts, eval_rows, errors, warnings, notes, previews, too_long, too_long_count, lengths, turns, .. } = survey;
        Ok(CheckReport {
            ok,
            files: dataset.names.clone(),
            model,
            problems,
            problem_count: survey.problem_count,
            errors,
            warnings,
            notes,
            counts,
            eval_rows,
            roles: survey.roles.into_iter().map(|(role, count)| (role.to_string(), count.into())).collect(),
            turns,
            evaluation,
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

fn faults(dataset: &Dataset, survey: &Survey) -> Vec<ReportedFault> {
    let faults = survey.problems.iter().map(|problem| ReportedFault {
        file: dataset.names.get(problem.file).cloned().unwrap_or_default(),
        line: problem.line,
        column: problem.column,
        path: problem.path.clone(),
        text: problem.text.clone(),
    });
    faults.collect()
}

impl EvaluationReport {
    /// From the surveys of both data sets.
    fn of(dataset: &Dataset, own: &Survey, training: &Survey) -> EvaluationReport {
        let mut trained = HashMap::new();
        for (hash, conversation) in &training.conversations {
            trained.entry(hash).or_insert(*conversation);
        }
        let both =
            own.conversations.iter().filter_map(|(hash, evaluation)| Some(Leak { evaluation: *evaluation, training: *trained.get(hash)? }));
        let mut leaks: Vec<Leak> = both.collect();
        let leaked = leaks.len() as u64;
        leaks.truncate(LEAKS);
        EvaluationReport { files: dataset.names.clone(), counts: own.counts.clone(), leaked, first_leaked: leaks }
    }
}

/// Adds what was found in the data set for evaluation.
fn add_evaluation(survey: &mut Survey, other: &Survey, report: &EvaluationReport) {
    survey.problem_count += other.problem_count;
    let named = |sentence: &String| format!("evaluation data: {sentence}");
    survey.errors.extend(other.errors.iter().map(named));
    // What is said of the training data already is not said again.
    let new = |known: &[String], found: &[String]| -> Vec<String> { found.iter().filter(|one| !known.contains(one)).map(named).collect() };
    let (warnings, notes) = (new(&survey.warnings, &other.warnings), new(&survey.notes, &other.notes));
    survey.warnings.extend(warnings);
    survey.notes.extend(notes);
    if report.leaked > 0 {
        let pairs = report.first_leaked.iter().map(|leak| format!("[{}] is [{}] of the training data", leak.evaluation, leak.training));
        let pairs = pairs.take(LEAKS_NAMED).collect::<Vec<_>>().join(", ");
        let more = report.leaked.saturating_sub(LEAKS_NAMED as u64);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let of = report.counts.conversations;
        survey.warnings.push(format!(
            "evaluation data: {} of {} {} also trained on, so the evaluation loss says too little about new data: {pairs}{more}; \
             remove them from one of the files",
            report.leaked,
            counted(of, "conversation"),
            if report.leaked == 1 { "is" } else { "are" }
        ));
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
    model: &Path,
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
        folder: model,
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
