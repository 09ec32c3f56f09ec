//! Processes a data set as `prepare` does but keeps no rows: collects counts, lengths, problems and some samples to show.

use std::cell::RefCell;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::base::error;
use crate::base::numbers::counted;
use crate::data::engine::{DataEngine, Dataset, Transformers};
use crate::data::parse::conversation::Role;
use crate::data::read::problem::Problem;
use crate::data::render::rendering;
use crate::data::rows::batch::{PreparedBatch, Row, Sink};
use crate::data::rows::counts::Counts;
use crate::data::rows::findings::{Findings, TooLong};
use crate::data::rows::options::Options;
use crate::data::rows::selection::{RowOrigin, Selection};
use crate::data::rows::turn_kinds::{KINDS, TurnKind};
use crate::data::survey::lengths::Lengths;
use crate::data::survey::preview::{Preview, pieces};
use crate::data::validate_files;

/// Which conversations to show.
#[derive(Clone, Debug)]
pub enum PreviewSelection {
    /// This many, from the first.
    First(usize),
    /// These, by index in the data set, from 0.
    Indices(Vec<usize>),
}

impl PreviewSelection {
    fn has(&self, index: usize) -> bool {
        match self {
            PreviewSelection::First(count) => index < *count,
            PreviewSelection::Indices(indices) => indices.contains(&index),
        }
    }
}

/// What one kind of turn contributes to the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnTokens {
    pub kind: TurnKind,
    pub tokens: u64,
    /// Tokens that are trained on.
    pub target_tokens: u64,
}

/// The results of a survey.
#[derive(Clone, Debug)]
pub struct Survey {
    pub counts: Counts,
    /// Rows held out for evaluation, of `counts.rows`.
    pub eval_rows: u64,
    /// The first problems in the files.
    pub problems: Vec<Problem>,
    pub problem_count: u64,
    /// Reasons why training would refuse the data, apart from the problems in the files.
    pub errors: Vec<String>,
    /// Possible mistakes that training accepts.
    pub warnings: Vec<String>,
    /// What is converted.
    pub notes: Vec<String>,
    /// The first samples longer than `max_length`.
    pub too_long: Vec<TooLong>,
    pub too_long_count: u64,
    /// Tokens and trained tokens by kind of turn.
    pub turns: Vec<TurnTokens>,
    /// Hash and index of each conversation, if they were asked for.
    pub conversations: Vec<(u64, usize)>,
    /// Messages by role.
    pub roles: Vec<(&'static str, u64)>,
    /// Lengths of the rows.
    pub lengths: Lengths,
    pub longest_targets: u32,
    pub previews: Vec<Preview>,
}

/// Surveys a data set. `identify`: whether to note the hash of each conversation. `on_progress` gets the bytes done and the bytes in total, and may stop the survey with an error.
///
/// # Errors
/// Kind `input` for a file that cannot be read, and for problems in the files if the template needs transformers, which is missing; kind
/// `model` for a model folder without a tokenizer or a chat template; kind `setup` if transformers is needed and missing.
pub fn survey(
    dataset: &Dataset,
    cache: &Path,
    transformers: &dyn Transformers,
    chosen: &PreviewSelection,
    identify: bool,
    on_progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Survey> {
    let mut engine = DataEngine::open(&dataset.model_folder, Some(cache))?;
    let on_progress = RefCell::new(on_progress);
    let parts = dataset.options.eval_split > 0.0 || dataset.is_weighted();
    let ran = engine.run(dataset, transformers, true, || Ok(SurveySink::new(chosen, parts, identify, &on_progress)));
    let (mut counts, findings, tally, _) = ran.map_err(|failure| {
        // Problems in the data can be found without transformers, and are reported first.
        if error::Error::of(&failure).kind == error::Kind::Setup {
            validate_files(&dataset.files, &dataset.options.layout).err().unwrap_or(failure)
        } else {
            failure
        }
    })?;
    let options = &dataset.options;
    let mut errors = findings.sentences(&counts, options);
    let mut eval_rows = 0;
    let mut weighted_rows = None;
    let mut turns = tally.turns;
    if let Some(origins) = tally.origins.as_ref().filter(|origins| !origins.is_empty()) {
        match Selection::new(origins, &dataset.parts, options) {
            Ok(selection) => {
                eval_rows = origins.iter().filter(|origin| selection.is_held_out(origin.conversation)).count() as u64;
                let trained: u64 = origins.iter().map(|origin| u64::from(selection.times(origin.conversation))).sum();
                weighted_rows = Some(trained + eval_rows);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if let Some(rows) = weighted_rows.filter(|_| dataset.is_weighted()) {
        // The tokens are estimated by the rows' mean length.
        let share = rows as f64 / counts.rows.max(1) as f64;
        counts.tokens = (counts.tokens as f64 * share).round() as u64;
        counts.target_tokens = (counts.target_tokens as f64 * share).round() as u64;
        counts.rows = rows;
        turns.iter_mut().flatten().for_each(|tokens| *tokens = (*tokens as f64 * share).round() as u64);
    }
    let Findings { problems, too_long, .. } = &findings;
    Ok(Survey {
        eval_rows,
        problems: problems.first().to_vec(),
        problem_count: problems.count() as u64,
        errors,
        warnings: dataset.warnings.iter().cloned().chain(warnings(&counts, &findings, &dataset.options, chosen)).collect(),
        notes: findings.notes(),
        too_long: too_long.first.clone(),
        too_long_count: too_long.count,
        turns: turn_tokens(turns),
        conversations: tally.conversations.unwrap_or_default(),
        roles: Role::ALL.iter().map(|role| role.as_str()).zip(tally.roles).collect(),
        lengths: tally.lengths,
        longest_targets: tally.longest_targets,
        previews: tally.shown.iter().map(|(row, tokens)| preview(&engine, row, tokens)).collect(),
        counts,
    })
}

/// The kinds that occur.
fn turn_tokens(turns: [[u64; 2]; KINDS]) -> Vec<TurnTokens> {
    let all = TurnKind::ALL.into_iter().zip(turns).map(|(kind, [tokens, target_tokens])| TurnTokens { kind, tokens, target_tokens });
    all.filter(|one| one.tokens > 0).collect()
}

/// Token ids and labels of a row.
type Tokens = (Vec<i32>, Vec<i32>);

fn preview(engine: &DataEngine, row: &Row, (input_ids, labels): &Tokens) -> Preview {
    Preview {
        conversation: row.conversation,
        message: row.message,
        tokens: row.length,
        kept: row.kept,
        target_tokens: row.targets,
        pieces: pieces(&engine.tokenizer, input_ids, labels),
    }
}

fn was_or_were(conversations: u64) -> String {
    format!("{conversations} {}", if conversations == 1 { "was" } else { "were" })
}

fn warnings(counts: &Counts, findings: &Findings, options: &Options, chosen: &PreviewSelection) -> Vec<String> {
    let mut warnings = Vec::new();
    if let PreviewSelection::Indices(indices) = chosen
        && let Some(beyond) = indices.iter().find(|index| **index as u64 >= counts.conversations)
    {
        warnings.push(format!("there is no conversation [{beyond}] to show: {} read, counted from 0", was_or_were(counts.conversations)));
    }
    if counts.literal_special_tokens > 0 {
        warnings.push(format!(
            "{} {} the text of a special token such as <|im_end|>: {}; it is tokenized as plain text, not as the special token",
            counted(counts.literal_special_tokens, "conversation"),
            if counts.literal_special_tokens == 1 { "contains" } else { "contain" },
            findings.literal_special_tokens.named(Clone::clone)
        ));
    }
    if counts.duplicates > 0 {
        warnings.push(format!(
            "{} {} identical to an earlier one: {}",
            counted(counts.duplicates, "conversation"),
            if counts.duplicates == 1 { "is" } else { "are" },
            findings.duplicates.named(Clone::clone)
        ));
    }
    warnings.extend(findings.warnings(options));
    warnings
}

/// Receives the rows and counts them.
struct SurveySink<'a, 'b> {
    chosen: &'a PreviewSelection,
    on_progress: &'a RefCell<&'b mut dyn FnMut(u64, u64) -> Result<()>>,
    roles: [u64; Role::ALL.len()],
    turns: [[u64; 2]; KINDS],
    conversations: Option<Vec<(u64, usize)>>,
    lengths: Lengths,
    longest_targets: u32,
    /// Where each row comes from, if some are held out or weighted.
    origins: Option<Vec<RowOrigin>>,
    shown: Vec<(Row, Tokens)>,
}

impl<'a, 'b> SurveySink<'a, 'b> {
    fn new(
        chosen: &'a PreviewSelection,
        parts: bool,
        identify: bool,
        on_progress: &'a RefCell<&'b mut dyn FnMut(u64, u64) -> Result<()>>,
    ) -> SurveySink<'a, 'b> {
        SurveySink {
            chosen,
            on_progress,
            roles: [0; Role::ALL.len()],
            turns: Default::default(),
            conversations: identify.then(Vec::new),
            lengths: Lengths::default(),
            longest_targets: 0,
            origins: parts.then(Vec::new),
            shown: Vec::new(),
        }
    }
}

impl Sink for SurveySink<'_, '_> {
    fn take(&mut self, made: PreparedBatch) -> Result<()> {
        self.roles.iter_mut().zip(made.roles).for_each(|(all, more)| *all += more);
        let mut kept_row = 0;
        for row in made.rows {
            for (all, more) in self.turns.iter_mut().flatten().zip(row.kinds.iter().flatten()) {
                *all += u64::from(*more);
            }
            if let Some(all) = self.conversations.as_mut().filter(|all| all.last().is_none_or(|last| last.1 != row.conversation)) {
                all.push((row.hash, row.conversation));
            }
            if row.kept > 0 {
                self.lengths.add(row.kept);
                self.longest_targets = self.longest_targets.max(row.targets);
                self.origins.iter_mut().for_each(|all| all.push(row.origin()));
            }
            if self.chosen.has(row.conversation) {
                let tokens = if row.kept > 0 { made.tokens.get(kept_row) } else { Default::default() };
                self.shown.push((row.clone(), (tokens.0.to_vec(), tokens.1.to_vec())));
            }
            kept_row += usize::from(row.kept > 0);
        }
        Ok(())
    }

    fn on_progress(&mut self, done: u64, total: u64) -> Result<()> {
        (self.on_progress.borrow_mut())(done, total)
    }
}

impl Preview {
    /// `[3]`, or `[3].messages[5]`.
    pub fn place(&self) -> String {
        rendering::place(self.conversation, self.message)
    }
}
