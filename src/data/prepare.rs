//! Prepares a data set, or finds it prepared: the stages from files to rows in the cache.

use std::cell::RefCell;
use std::path::Path;

use anyhow::Result;
use log::Level;

use crate::base::cache as user_cache;
use crate::base::logging::Shown;
use crate::base::numbers::{counted, grouped};
use crate::base::{files, logging, threads};
use crate::data::engine::{DataEngine, Dataset, Transformers, warn_unchecked};
use crate::data::rows::arrow::{FileCheck, RowsWriter, TokenRows, read_rows};
use crate::data::rows::batch::{PreparedBatch, Row, Sink};
use crate::data::rows::cache::{CacheEntry, CacheReport, EVAL, Prepared, TRAIN};
use crate::data::rows::counts::Counts;
use crate::data::rows::options::Options;
use crate::data::rows::sample::IGNORED;
use crate::data::rows::selection::{RowOrigin, Selection};

/// Prepares a data set, or finds it in `cache`. `on_progress` gets the bytes done and the total bytes, and may end the preparation with an error.
///
/// # Errors
/// Those of `prepare`. Kind `model`: the model's folder has no tokenizer or no chat template. Kind `setup`: only transformers can render
/// the template, and it is not available. Kind `io`: the cache cannot be written.
pub fn prepare_dataset(
    dataset: &Dataset,
    cache: &Path,
    transformers: &dyn Transformers,
    on_progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Prepared> {
    let (engine, files) = threads::join(|| DataEngine::open(&dataset.model_folder, Some(cache)), || crate::data::digest(&dataset.files));
    let (mut engine, files) = (engine?, files?);
    let rows = dataset.identity(files, &engine.tokenizer)?;
    let template = engine.renderer.template();
    // A template that our tests do not compare is rendered by transformers, or compared with it now.
    let transformers_version = if template.compared && template.unsupported.is_none() { None } else { transformers.version()? };
    let decides = (engine.tokenizer.digest, template.digest, transformers_version.as_deref());
    let entry = CacheEntry::new(cache, rows, decides, &dataset.options)?;
    let max_bytes = user_cache::max_bytes()?;
    let on_progress = RefCell::new(on_progress);
    let options = &dataset.options;
    loop {
        if let Some((prepared, unchecked)) = entry.open() {
            // An unchecked entry was prepared without Python; there may be Python now.
            if !unchecked || transformers.renderer(&dataset.model_folder)?.is_none() {
                let are = if prepared.counts.rows == 1 { "is" } else { "are" };
                let text =
                    format!("{}{} {are} already in {}", dataset.label, counted(prepared.counts.rows, "row"), prepared.path.display());
                // The result of the command, or the overview of the training, has the numbers.
                logging::emit_to(Level::Info, module_path!(), &text, Shown::OffTerminal);
                log_findings(&prepared, dataset.label);
                if unchecked {
                    warn_unchecked(&dataset.model_folder);
                }
                return Ok(prepared);
            }
        }
        let made = entry.make(|folder| {
            let path = folder.join(TRAIN);
            let (mut counts, findings, sink, unchecked) = engine.run(dataset, transformers, false, || {
                let origins = (options.eval_split > 0.0 || dataset.is_weighted()).then(Vec::new);
                Ok(ArrowSink { writer: RowsWriter::create(&path)?, origins, on_progress: &on_progress })
            })?;
            let (train, origins) = (sink.writer.finish()?, sink.origins);
            let (train, eval) = match origins {
                None => (train, None),
                Some(origins) => select(folder, &origins, dataset, &mut counts)?,
            };
            Ok(CacheReport { counts, train, eval, unchecked, notes: findings.notes(), warnings: findings.warnings(options) })
        })?;
        if let Some(prepared) = made {
            log(&prepared, options, dataset.label);
            // The rows are there, so a cache that cannot be made smaller is no error of theirs.
            user_cache::shrink(cache, max_bytes).unwrap_or_else(|cause| warning!("{cause:#}"));
            return Ok(prepared);
        }
    }
}

/// Logs what was converted and what may be a mistake, also if the rows were prepared before.
fn log_findings(prepared: &Prepared, label: &str) {
    prepared.notes.iter().for_each(|note| logging::emit_once(Level::Info, module_path!(), label, note));
    prepared.warnings.iter().for_each(|warning| logging::emit_once(Level::Warn, module_path!(), label, warning));
}

/// Logs the statistics.
fn log(prepared: &Prepared, options: &Options, label: &str) {
    log_findings(prepared, label);
    let counts = &prepared.counts;
    let text = format!(
        "{label}{}: {}, {}, of which {} are targets",
        counted(counts.conversations, "conversation"),
        counted(counts.rows, "row"),
        counted(counts.tokens, "token"),
        grouped(counts.target_tokens)
    );
    logging::emit_to(Level::Info, module_path!(), &text, Shown::OffTerminal);
    let conversation = |count| counted(count, "conversation");
    let is_or_are = |count| if count == 1 { "is" } else { "are" };
    let told = [
        (counts.truncated, format!("{} truncated to {} tokens", counted(counts.truncated, "sample"), options.max_length)),
        (counts.dropped, format!("{} dropped: too long, or no turn to train on", counted(counts.dropped, "sample"))),
        (
            counts.duplicates,
            if options.drop_duplicates {
                format!("{} dropped: identical to an earlier one", conversation(counts.duplicates))
            } else {
                let (many, are) = (conversation(counts.duplicates), is_or_are(counts.duplicates));
                format!("{many} {are} identical to an earlier one; set drop_duplicates to drop them")
            },
        ),
        (
            counts.split_conversations,
            format!(
                "{} split into one sample per turn, because the template rewrites earlier turns",
                conversation(counts.split_conversations)
            ),
        ),
        (
            counts.separately_tokenized_turns,
            format!(
                "{} beginning with whitespace, tokenized separately from the prompt",
                counted(counts.separately_tokenized_turns, "answer")
            ),
        ),
    ];
    told.iter().filter(|(count, _)| *count > 0).for_each(|(_, text)| info!("{label}{text}"));
    if counts.literal_special_tokens > 0 {
        let contain = if counts.literal_special_tokens == 1 { "contains" } else { "contain" };
        warning!(
            "{label}{} {contain} the text of a special token such as <|im_end|>; it stays ordinary text",
            conversation(counts.literal_special_tokens)
        );
    }
}

/// Writes rows to the Arrow file.
struct ArrowSink<'a, 'b> {
    writer: RowsWriter,
    /// Where each row comes from, with `eval_split` or weights.
    origins: Option<Vec<RowOrigin>>,
    on_progress: &'a RefCell<&'b mut dyn FnMut(u64, u64) -> Result<()>>,
}

impl Sink for ArrowSink<'_, '_> {
    fn take(&mut self, made: PreparedBatch) -> Result<()> {
        if let Some(origins) = &mut self.origins {
            origins.extend(made.rows.iter().filter(|row| row.kept > 0).map(Row::origin));
        }
        self.writer.write(made.tokens)
    }

    fn on_progress(&mut self, done: u64, total: u64) -> Result<()> {
        (self.on_progress.borrow_mut())(done, total)
    }
}

/// Writes the rows again as the selection says, and counts them.
fn select(folder: &Path, origins: &[RowOrigin], dataset: &Dataset, counts: &mut Counts) -> Result<(FileCheck, Option<FileCheck>)> {
    let selection = Selection::new(origins, &dataset.parts, &dataset.options)?;
    let (path, all) = (folder.join(TRAIN), folder.join("all.arrow"));
    files::rename(&path, &all)?;
    let mut train = RowsWriter::create(&path)?;
    let mut eval = if dataset.options.eval_split > 0.0 { Some(RowsWriter::create(&folder.join(EVAL))?) } else { None };
    (counts.rows, counts.tokens, counts.target_tokens) = (0, 0, 0);
    let mut origins = origins.iter();
    read_rows(&all, |rows| {
        let (mut kept, mut out) = (TokenRows::default(), TokenRows::default());
        for (row, origin) in (0..rows.len()).zip(&mut origins) {
            let (ids, labels) = rows.get(row);
            let held_out = selection.is_held_out(origin.conversation);
            let times = if held_out { 1 } else { selection.times(origin.conversation) };
            for _ in 0..times {
                if held_out { &mut out } else { &mut kept }.push(ids, labels);
            }
            counts.rows += u64::from(times);
            counts.tokens += u64::from(times) * ids.len() as u64;
            counts.target_tokens += u64::from(times) * labels.iter().filter(|label| **label != IGNORED).count() as u64;
        }
        train.write(kept)?;
        eval.as_mut().map_or(Ok(()), |eval| eval.write(out))
    })?;
    files::remove(&all)?;
    Ok((train.finish()?, eval.map(RowsWriter::finish).transpose()?))
}
