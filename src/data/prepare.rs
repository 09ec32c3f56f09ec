//! Prepares a data set, or finds it prepared: the story from files to rows in the cache.

use std::cell::RefCell;
use std::path::Path;

use anyhow::Result;
use log::Level;

use crate::base::cache as user_cache;
use crate::base::logging::Shown;
use crate::base::{files, logging, threads};
use crate::data::engine::{DataEngine, Dataset, Transformers, warn_unchecked};
use crate::data::rows::arrow::{FileCheck, RowsWriter, TokenRows, read_rows};
use crate::data::rows::batch::{PreparedBatch, Row, Sink};
use crate::data::rows::cache::{CacheEntry, CacheReport, EVAL, Prepared, TRAIN};
use crate::data::rows::counts::Counts;
use crate::data::rows::options::Options;
use crate::data::rows::sample::IGNORED;
use crate::data::rows::selection::{RowOrigin, Selection};

/// Prepares a data set, or finds it in `cache`. `tell` gets the bytes done and the total bytes, and may end the preparation with an error.
///
/// # Errors
/// Those of `prepare`. Kind `model`: the model's folder has no tokenizer or no chat template. Kind `setup`: only transformers can render
/// the template, and it is not available. Kind `io`: the cache cannot be written.
pub fn prepare_dataset(
    dataset: &Dataset,
    cache: &Path,
    transformers: &dyn Transformers,
    tell: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Prepared> {
    let (engine, files) = threads::join(|| DataEngine::open(&dataset.model_folder, Some(cache)), || crate::data::digest(&dataset.files));
    let (mut engine, files) = (engine?, files?);
    let rows = dataset.identity(files, &engine.tokenizer)?;
    let entry = CacheEntry::new(cache, rows, engine.tokenizer.digest, engine.renderer.template().digest, &dataset.options)?;
    let max_bytes = user_cache::max_bytes()?;
    let tell = RefCell::new(tell);
    let options = &dataset.options;
    loop {
        if let Some((prepared, unchecked)) = entry.open() {
            // An unchecked entry was prepared without Python; there may be Python now.
            if !unchecked || transformers.renderer(&dataset.model_folder)?.is_none() {
                let text = format!("{} rows are already in {}", prepared.counts.rows, prepared.path.display());
                // The result of the command, or the overview of the training, has the numbers.
                logging::emit_to(Level::Info, module_path!(), &text, Shown::OffTerminal);
                log_findings(&prepared);
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
                Ok(ArrowSink { writer: RowsWriter::create(&path)?, origins, tell: &tell })
            })?;
            let (train, origins) = (sink.writer.finish()?, sink.origins);
            let (train, eval) = match origins {
                None => (train, None),
                Some(origins) => select(folder, &origins, dataset, &mut counts)?,
            };
            Ok(CacheReport { counts, train, eval, unchecked, notes: findings.notes(), warnings: findings.warnings() })
        })?;
        if let Some(prepared) = made {
            log(&prepared, options);
            // The rows are there, so a cache that cannot be made smaller is no error of theirs.
            user_cache::shrink(cache, max_bytes).unwrap_or_else(|cause| warning!("{cause:#}"));
            return Ok(prepared);
        }
    }
}

/// Logs what was converted and what may be a mistake, also if the rows were prepared before.
fn log_findings(prepared: &Prepared) {
    prepared.notes.iter().for_each(|note| info!("{note}"));
    prepared.warnings.iter().for_each(|warning| warning!("{warning}"));
}

/// Logs the statistics.
fn log(prepared: &Prepared, options: &Options) {
    log_findings(prepared);
    let counts = &prepared.counts;
    let text = format!(
        "{} conversations: {} rows, {} tokens, of which {} are targets",
        counts.conversations, counts.rows, counts.tokens, counts.target_tokens
    );
    logging::emit_to(Level::Info, module_path!(), &text, Shown::OffTerminal);
    let duplicates = if options.drop_duplicates {
        "conversations dropped: identical to an earlier one"
    } else {
        "conversations are identical to an earlier one; set drop_duplicates to drop them"
    };
    for (count, what) in [
        (counts.truncated, format!("samples truncated to {} tokens", options.max_length).as_str()),
        (counts.dropped, "samples dropped: too long, or no turn to train on"),
        (counts.duplicates, duplicates),
        (counts.split_conversations, "conversations split into one sample per turn, because the template rewrites earlier turns"),
        (counts.separately_tokenized_turns, "answers beginning with whitespace, tokenized separately from their prompts"),
    ] {
        if count > 0 {
            info!("{count} {what}");
        }
    }
    if counts.literal_special_tokens > 0 {
        warning!(
            "{} conversations contain the text of a special token such as <|im_end|>; it stays ordinary text",
            counts.literal_special_tokens
        );
    }
}

/// Writes rows to the Arrow file.
struct ArrowSink<'a, 'b> {
    writer: RowsWriter,
    /// Where each row comes from, with `eval_split` or weights.
    origins: Option<Vec<RowOrigin>>,
    tell: &'a RefCell<&'b mut dyn FnMut(u64, u64) -> Result<()>>,
}

impl Sink for ArrowSink<'_, '_> {
    fn take(&mut self, made: PreparedBatch) -> Result<()> {
        if let Some(origins) = &mut self.origins {
            origins.extend(made.rows.iter().filter(|row| row.kept > 0).map(Row::origin));
        }
        self.writer.write(made.tokens)
    }

    fn tell(&mut self, done: u64, total: u64) -> Result<()> {
        (self.tell.borrow_mut())(done, total)
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
