//! Prepares a data set, or finds it prepared: the story from files to rows in the cache.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;
use log::Level;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::base::logging::Shown;
use crate::base::{error, files, logging};
use crate::data::engine::{DataEngine, Dataset, Transformers, warn_unchecked};
use crate::data::rows::arrow::{FileCheck, RowsWriter, TokenRows, read_rows};
use crate::data::rows::cache::{CacheEntry, CacheReport, EVAL, Prepared, TRAIN};
use crate::data::rows::options::Options;
use crate::data::rows::workers::{PreparedBatch, Sink};

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
    let (engine, files) = std::thread::scope(|scope| {
        let digest = scope.spawn(|| crate::data::digest(&dataset.files));
        (DataEngine::open(&dataset.model_folder, Some(cache)), digest.join())
    });
    let (mut engine, files) = (engine?, files.map_err(|_| anyhow::anyhow!("hashing the data set panicked"))??);
    let entry = CacheEntry::new(cache, files, engine.tokenizer.digest, engine.renderer.template().digest, &dataset.options)?;
    if let Some((prepared, unchecked)) = entry.open() {
        // An unchecked entry was prepared without Python; there may be Python now.
        if !unchecked || transformers.renderer(&dataset.model_folder)?.is_none() {
            let text = format!("{} rows are already in {}", prepared.counts.rows, prepared.path.display());
            // The result of the command, or the overview of the training, has the numbers.
            logging::emit_to(Level::Info, module_path!(), &text, Shown::OffTerminal);
            if unchecked {
                warn_unchecked(&dataset.model_folder);
            }
            return Ok(prepared);
        }
    }
    let tell = RefCell::new(tell);
    let options = &dataset.options;
    let prepared = entry.make(|folder| {
        let path = folder.join(TRAIN);
        let (counts, _, sink, unchecked) = engine.run(dataset, transformers, false, || {
            Ok(ArrowSink { writer: RowsWriter::create(&path)?, conversations: (options.eval_split > 0.0).then(Vec::new), tell: &tell })
        })?;
        let (train, conversations) = (sink.writer.finish()?, sink.conversations);
        match conversations {
            None => Ok(CacheReport { counts, train, eval: None, unchecked }),
            Some(conversations) => {
                let (train, eval) = split(folder, &conversations, options)?;
                Ok(CacheReport { counts, train, eval: Some(eval), unchecked })
            }
        }
    })?;
    log(&prepared, options);
    Ok(prepared)
}

/// Logs the statistics.
fn log(prepared: &Prepared, options: &Options) {
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
    /// The conversation of each row, with `eval_split`.
    conversations: Option<Vec<u32>>,
    tell: &'a RefCell<&'b mut dyn FnMut(u64, u64) -> Result<()>>,
}

impl Sink for ArrowSink<'_, '_> {
    fn take(&mut self, made: PreparedBatch) -> Result<()> {
        if let Some(conversations) = &mut self.conversations {
            conversations.extend(made.rows.iter().filter(|row| row.kept > 0).map(|row| row.conversation as u32));
        }
        self.writer.write(made.tokens)
    }

    fn tell(&mut self, done: u64, total: u64) -> Result<()> {
        (self.tell.borrow_mut())(done, total)
    }
}

/// The conversations to hold out, at least one. `conversations`: the index of each row's conversation, in the order of the rows.
pub(crate) fn held_out(conversations: &[u32], options: &Options) -> Result<HashSet<u32>> {
    let mut drawn: Vec<u32> = conversations.to_vec();
    drawn.dedup();
    let count = ((options.eval_split * drawn.len() as f64).round() as usize).max(1);
    if count >= drawn.len() {
        return Err(error::input(format!(
            "eval_split {} of {} conversations holds out {count} and leaves nothing to train on; lower eval_split, or add conversations",
            options.eval_split,
            drawn.len()
        )));
    }
    // Those with the smallest hashes of seed and index: the choice depends on nothing else.
    drawn.sort_by_key(|number| (xxh3_64_with_seed(&number.to_le_bytes(), u64::from(options.seed)), *number));
    Ok(drawn.into_iter().take(count).collect())
}

/// Splits the rows; all rows of a conversation go to the same side.
fn split(folder: &Path, conversations: &[u32], options: &Options) -> Result<(FileCheck, FileCheck)> {
    let held_out = held_out(conversations, options)?;
    let (path, all) = (folder.join(TRAIN), folder.join("all.arrow"));
    files::rename(&path, &all)?;
    let (mut train, mut eval) = (RowsWriter::create(&path)?, RowsWriter::create(&folder.join(EVAL))?);
    let mut numbers = conversations.iter();
    read_rows(&all, |rows| {
        let mut sides = [TokenRows::default(), TokenRows::default()];
        for (row, number) in (0..rows.len()).zip(&mut numbers) {
            let (ids, labels) = rows.get(row);
            sides[usize::from(held_out.contains(number))].push(ids, labels);
        }
        let [kept, out] = sides;
        train.write(kept)?;
        eval.write(out)
    })?;
    files::remove(&all)?;
    Ok((train.finish()?, eval.finish()?))
}
