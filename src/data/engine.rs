//! Prepares data sets: chooses renderer and tokenizer, compares them with the libraries, and stores the rows in the cache.
//!
//! In every run a sample is compared with the `tokenizers` library, and with transformers if the chat template is unknown. On a
//! difference the library does the work.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::base::{error, files};
use crate::data::render::chat_renderer::ChatRenderer;
use crate::data::render::rendering::{Render, RenderError};
use crate::data::render::template::ChatTemplate;
use crate::data::rows::arrow::{FileCheck, RowsWriter, TokenRows, read_rows};
use crate::data::rows::cache::{CacheEntry, CacheReport, EVAL, Prepared, TRAIN};
use crate::data::rows::counts::Counts;
use crate::data::rows::findings::Findings;
use crate::data::rows::options::Options;
use crate::data::rows::prepare::{Ending, Preparation, PreparedBatch, RenderProbe, Sink, prepare};
use crate::data::tokenizer::{SubsetTokenizer, Tokenizer};

/// Access to transformers, for templates that only it can render, and for comparison.
pub trait Transformers: Sync {
    /// A renderer for the model in `folder`; `None` if Python is not available.
    fn renderer(&self, folder: &Path) -> Result<Option<Box<dyn Render + '_>>>;
}

/// For callers without Python.
#[derive(Debug)]
pub struct NoTransformers;

impl Transformers for NoTransformers {
    fn renderer(&self, _: &Path) -> Result<Option<Box<dyn Render + '_>>> {
        Ok(None)
    }
}

/// A data set, and the model for which it is prepared.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub files: Vec<PathBuf>,
    /// Folder of the model, or of an adapter with its own tokenizer.
    pub model_folder: PathBuf,
    pub options: Options,
}

/// Whether no Python is needed to render for the model in a folder: our tests compare its template with transformers.
pub fn is_native(model_folder: &Path) -> bool {
    ChatTemplate::open(model_folder).is_ok_and(|template| template.compared && template.unsupported.is_none())
}

/// Renderer and tokenizer of a model.
pub(crate) struct DataEngine {
    pub tokenizer: Tokenizer,
    pub renderer: ChatRenderer,
}

impl DataEngine {
    pub(crate) fn open(model_folder: &Path, cache: Option<&Path>) -> Result<DataEngine> {
        let tokenizer = Tokenizer::open(model_folder, cache)?;
        let template = ChatTemplate::open(model_folder)?;
        let end_tokens = tokenizer.control_texts().to_vec();
        Ok(DataEngine { tokenizer, renderer: ChatRenderer::new(template, end_tokens) })
    }

    /// Prepares the data set. If the probes show that renderer or tokenizer differs from its library, the preparation is repeated with
    /// the library. `sink` makes a new sink for each attempt. In a survey, faults of the data are findings, not errors. The last item of
    /// the result: whether the template is unchecked, because it could not be compared.
    pub(crate) fn run<S: Sink>(
        &mut self,
        dataset: &Dataset,
        transformers: &dyn Transformers,
        survey: bool,
        mut sink: impl FnMut() -> Result<S>,
    ) -> Result<(Counts, Findings, S, bool)> {
        let folder = &dataset.model_folder;
        let template = self.renderer.template().clone();
        let mut other: Option<Box<dyn Render + '_>> = None;
        if let Some(why) = &template.unsupported {
            other = Some(needed(transformers, folder, why)?);
        }
        loop {
            let renderer: &dyn Render = other.as_deref().unwrap_or(&self.renderer);
            let excerpt = self.tokenizer.start_subset();
            let ask = |probes: &[RenderProbe]| excerpt.iter().for_each(|excerpt| excerpt.send_texts(texts(probes)));
            let (tokenizer, options) = (&self.tokenizer, dataset.options);
            let work = Preparation { files: dataset.files.clone(), tokenizer, renderer, options, survey, on_probes: &ask };
            let mut receiver = sink()?;
            let (counts, findings, probes) = match prepare(&work, &mut receiver)? {
                Ending::Done { counts, findings, probes } => (counts, findings, probes),
                Ending::Unsupported(why) => {
                    other = Some(needed(transformers, folder, &why)?);
                    continue;
                }
            };
            if !survey {
                findings.refusal(&counts, &dataset.options, &dataset.files)?;
            }
            let mut unchecked = false;
            if other.is_none() && !template.compared {
                match transformers.renderer(folder)? {
                    None => unchecked = true,
                    Some(theirs) => {
                        if let Some(why) = difference(&probes.concat(), theirs.as_ref())? {
                            warning!(
                                "the chat template renders differently in transformers ({why}), so transformers is used, which is slower"
                            );
                            other = Some(theirs);
                            continue;
                        }
                    }
                }
            }
            if let Some(why) = self.tokenizer_differs(excerpt, &probes)? {
                warning!(
                    "the fast tokenizer and the tokenizers library differ ({why}), so the library is used, which is slower; please report this"
                );
                self.tokenizer.use_library()?;
                continue;
            }
            if unchecked {
                warn_unchecked(folder);
            }
            return Ok((counts, *findings, receiver, unchecked));
        }
    }

    /// The first text of the probes for which the library's tokens differ. `excerpt` was prepared for the probes that use little of
    /// the template.
    fn tokenizer_differs(&self, excerpt: Option<SubsetTokenizer>, [plain, rich]: &[Vec<RenderProbe>; 2]) -> Result<Option<String>> {
        let Some(excerpt) = excerpt else { return Ok(None) };
        let another = if rich.is_empty() { None } else { self.tokenizer.start_subset() };
        if let Some(another) = &another {
            another.send_texts(texts(rich));
        }
        let found = self.tokenizer.first_difference(&*self.tokenizer.library_tokenizer(excerpt)?, texts(plain))?;
        match another {
            Some(another) if found.is_none() => self.tokenizer.first_difference(&*self.tokenizer.library_tokenizer(another)?, texts(rich)),
            _ => Ok(found),
        }
    }
}

/// The texts of the probes' renderings.
fn texts(probes: &[RenderProbe]) -> impl Iterator<Item = &str> {
    probes.iter().flat_map(|probe| &probe.renderings).map(|rendering| rendering.text.as_str())
}

fn warn_unchecked(folder: &Path) {
    warning!(
        "the chat template in {} was not compared with transformers, because there is no Python environment; `pyrust-nn setup` makes one",
        folder.display()
    );
}

fn needed<'t>(transformers: &'t dyn Transformers, folder: &Path, why: &str) -> Result<Box<dyn Render + 't>> {
    let renderer = transformers.renderer(folder)?.ok_or_else(|| {
        error::setup(format!(
            "the chat template in {} needs transformers ({why}), but there is no Python environment with it; run `pyrust-nn setup`",
            folder.display()
        ))
    })?;
    warning!("transformers renders the chat template, which is slower: {why}");
    Ok(renderer)
}

/// The first difference between the two renderers.
fn difference(probes: &[RenderProbe], theirs: &dyn Render) -> Result<Option<String>> {
    for probe in probes {
        let same = match theirs.renderings(&probe.conversation) {
            Ok(renderings) => renderings == probe.renderings,
            Err(RenderError::Failed(error)) => return Err(error),
            Err(RenderError::Unsupported(why)) => return Ok(Some(why)),
        };
        if !same {
            return Ok(Some(format!("conversation [{}]", probe.conversation.index)));
        }
    }
    Ok(None)
}

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
            info!("{} rows are already in {}", prepared.counts.rows, prepared.path.display());
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
    info!(
        "{} conversations: {} rows, {} tokens, of which {} are targets",
        counts.conversations, counts.rows, counts.tokens, counts.target_tokens
    );
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
