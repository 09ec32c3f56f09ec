//! The preparation pipeline of a data set: it is read, checked, rendered, tokenized and masked on all cores, and written in file order.
//!
//! Threads process batches of the file, and the caller's thread writes the results in the order of the file. The number of batches in
//! flight is limited, so memory does not grow with the file.
//!
//! Duplicates are recognized by 64-bit hashes, which cost 8 bytes per conversation. For two million conversations the probability of an
//! error is one in ten million.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Result;

use crate::base::error::{Error, Kind};
use crate::base::{signals, threads};
use crate::data::parse::conversation::{Conversation, SampleKind};
use crate::data::parse::item_keys::{is_plain_field, is_provenance};
use crate::data::read::problem::Problems;
use crate::data::read::reader::Reader;
use crate::data::render::rendering::{NestedRenderings, Render, RenderError, Rendering, Renderings, Turn, place};
use crate::data::render::template::ChatTemplate;
use crate::data::render::thinking::{drop_thinking, mask_thinking};
use crate::data::rows::batch::{PreparedBatch, ReadConversation, RenderProbe, Row, Sink};
use crate::data::rows::collector::{Collector, PROBES};
use crate::data::rows::compare::{digest, unseen};
use crate::data::rows::counts::Counts;
use crate::data::rows::findings::{BeyondEmbedding, Findings};
use crate::data::rows::options::{Options, Thinking};
use crate::data::rows::sample::{Encoder, Escapes, History, Sample};
use crate::data::rows::selection::DataPart;
use crate::data::rows::spans::Spans;
use crate::data::rows::text_checks::{answer_faults, count_unprinted};
use crate::data::rows::turn_kinds::{kind_spans, nested_spans, own_spans};
use crate::data::tokenizer::{ControlToken, Tokenizer};

/// Limits of the conversations kept for the comparison with transformers and tokenizers: number per batch, and bytes of one. The first of a batch may be longer, so that data with only long conversations have some too.
const PROBES_OF_BATCH: usize = 2;
const PROBE_BYTES: usize = 1 << 14;
const FIRST_PROBE_BYTES: usize = 1 << 20;

/// The input of a preparation.
pub struct Preparation<'a> {
    pub files: Vec<PathBuf>,
    pub parts: &'a [DataPart],
    pub tokenizer: &'a Tokenizer,
    pub renderer: &'a dyn Render,
    /// What the template mentions, and the end of plain text.
    pub template: &'a ChatTemplate,
    pub options: Options,
    /// Whether faulty conversations are recorded and skipped, instead of ending the preparation.
    pub survey: bool,
    /// Called once, as soon as no more are collected, with the probes that use little of the template.
    pub on_probes: &'a (dyn Fn(&[RenderProbe]) + Sync),
}

/// The result of a preparation without an error.
#[derive(Debug)]
pub enum Ending {
    /// `probes`: the first conversations of each batch; those that use little of the template, and those that use more.
    Done { counts: Counts, findings: Box<Findings>, probes: [Vec<RenderProbe>; 2] },
    /// Only transformers can render a conversation: repeat the preparation with it.
    Unsupported(String),
}

/// State shared by the threads.
struct PreparationState<'a> {
    work: &'a Preparation<'a>,
    reader: Mutex<Reader>,
    window: Mutex<BatchWindow>,
    moved: Condvar,
}

#[derive(Default)]
struct BatchWindow {
    taken: u64,
    written: u64,
    stop: bool,
}

type BatchOutcome = (u64, Result<PreparedBatch, RenderError>);

/// Prepares all conversations of the files.
///
/// Faults of the data and too long samples are findings, and the caller decides; see [`Findings::refusal`].
///
/// # Errors
/// Kind `input`: the template refuses a conversation (in a survey, a finding). Kind `model`: the template renders turns
/// differently from their prompts.
pub fn prepare(work: &Preparation<'_>, sink: &mut dyn Sink) -> Result<Ending> {
    let mut reader = Reader::open(work.files.clone(), &work.options.layout)?;
    reader.limit(work.parts.iter().map(|part| (part.files, part.max_rows)));
    let total = reader.bytes_total();
    let count = threads::available();
    let shared = PreparationState { work, reader: Mutex::new(reader), window: Mutex::default(), moved: Condvar::new() };
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        let mut started = 0;
        for _ in 0..count {
            let (sender, shared) = (sender.clone(), &shared);
            match threads::spawn_scoped(scope, move || shared.batches(count as u64 * 4, &sender)) {
                Ok(_) => started += 1,
                Err(_) => break,
            }
        }
        if started == 0 {
            // Without any thread, all batches are prepared before the first is written, so they need memory for all rows.
            shared.batches(u64::MAX / 2, &sender);
        }
        drop(sender);
        let ending = collect(&shared, &results, total, sink);
        // Wakes waiting threads so that they end; results in flight are dropped.
        shared.window.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        shared.moved.notify_all();
        drop(results);
        ending
    })
}

impl PreparationState<'_> {
    /// Processes batches until none is left.
    fn batches(&self, room: u64, results: &Sender<BatchOutcome>) {
        let mut encoder = Encoder::new(self.work.tokenizer);
        loop {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            while !window.stop && window.taken >= window.written + room {
                window = self.moved.wait(window).unwrap_or_else(PoisonError::into_inner);
            }
            if window.stop {
                return;
            }
            drop(window);
            let (number, batch, read) = {
                let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
                let batch = reader.next_batch();
                // Numbered while the reader is locked, so in the order of the file.
                let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
                window.taken += 1;
                (window.taken - 1, batch, reader.bytes_done())
            };
            let made = match batch {
                Ok(None) => return,
                // After a panic, the collector must not wait for this batch forever.
                Ok(Some(batch)) => catch_unwind(AssertUnwindSafe(|| {
                    let mut problems = Problems::default();
                    let conversations = batch.conversations(&mut problems);
                    self.work.batch(conversations, batch.file(), &mut encoder).map(|made| PreparedBatch { problems, read, ..made })
                }))
                .unwrap_or_else(|panic| Err(panicked(&*panic).into())),
                Err(error) => Err(error.into()),
            };
            if results.send((number, made)).is_err() {
                return;
            }
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> anyhow::Error {
    let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow::anyhow!("a conversation could not be prepared: {}", what.unwrap_or("a panic without a message"))
}

/// A conversation, as it is and as it was given to the renderer, and what is known about its rows.
struct Written<'a> {
    conversation: &'a Conversation,
    shown: &'a Conversation,
    /// See [`Escapes`].
    escape: Option<char>,
    row: Row,
}

/// Memory that is used again for each row, and is empty between rows.
#[derive(Default)]
struct RowMemory {
    tokens: Vec<ControlToken>,
    sample: Sample,
}

/// Keeps a conversation for the comparison with the libraries, if it is one of the first of its batch.
fn add_probe(renderings: &[Rendering], shown: &Conversation, made: &mut PreparedBatch) {
    let rich = shown.tools.is_some() || shown.messages.iter().any(|message| !message.fields.is_empty());
    let probes = &mut made.probes[usize::from(rich)];
    let most = if probes.is_empty() { FIRST_PROBE_BYTES } else { PROBE_BYTES };
    if probes.len() < PROBES_OF_BATCH && renderings.iter().map(|one| one.text.len()).sum::<usize>() <= most {
        probes.push(RenderProbe { conversation: shown.clone(), renderings: renderings.to_vec() });
    }
}

impl Preparation<'_> {
    /// Renders, tokenizes and masks conversations.
    fn batch(&self, conversations: Vec<Conversation>, file: usize, encoder: &mut Encoder<'_>) -> Result<PreparedBatch, RenderError> {
        let mut made = PreparedBatch::default();
        let mut memory = RowMemory::default();
        made.tokens.reserve(conversations.iter().flat_map(|one| &one.messages).map(|message| message.content.len()).sum::<usize>() / 3);
        for mut conversation in conversations {
            let hash = digest(&conversation);
            for (name, value) in &self.options.template_kwargs {
                conversation.chat_template_kwargs.entry(name).or_insert_with(|| value.clone());
            }
            if self.options.thinking == Thinking::Drop {
                drop_thinking(&mut conversation);
            }
            self.remark(&conversation, &mut made);
            let plain_text = conversation.kind == SampleKind::PlainText;
            // In plain text special tokens count, as when transformers tokenizes it.
            let escaped = if plain_text { None } else { Escapes::insert(&conversation, self.tokenizer) };
            let literal = escaped.is_some().then(|| self.place_of_literal(&conversation));
            made.conversations.push(ReadConversation { index: conversation.index, hash, literal });
            conversation.messages.iter().for_each(|message| made.roles[message.role as usize] += 1);
            let (shown, escape) = escaped.as_ref().map_or((&conversation, None), |(escaped, escape)| (escaped, Some(*escape)));
            let renderings = if plain_text {
                Ok(Renderings::Apart(vec![self.plain_text(&conversation)]))
            } else {
                self.renderer.compact_renderings(shown)
            };
            let renderings = match renderings {
                Err(RenderError::Failed(error)) if self.survey && Error::of(&error).kind == Kind::Input => {
                    made.refused.push(error.to_string());
                    continue;
                }
                renderings => renderings?,
            };
            if !plain_text {
                count_unprinted(&conversation, &mut made.unprinted);
                let faults = answer_faults(&conversation);
                made.answer_faults.extend(faults.map(|(fault, message)| (fault, place(conversation.index, Some(message)))));
            }
            let row = Row { conversation: conversation.index, file, hash, ..Row::default() };
            let written = Written { conversation: &conversation, shown, escape, row };
            match renderings {
                Renderings::Apart(renderings) => self.add_apart(renderings, &written, encoder, &mut memory, &mut made)?,
                Renderings::Nested(nested) => self.add_nested(&nested, &written, encoder, &mut memory, &mut made)?,
            }
        }
        Ok(made)
    }

    /// Adds the samples of renderings that have their whole text.
    fn add_apart(
        &self,
        renderings: Vec<Rendering>,
        written: &Written<'_>,
        encoder: &mut Encoder<'_>,
        RowMemory { tokens, sample }: &mut RowMemory,
        made: &mut PreparedBatch,
    ) -> Result<(), RenderError> {
        let Written { conversation, shown, escape, .. } = *written;
        for what in unseen(shown, &renderings, self.options.thinking) {
            made.unseen.push((what, place(conversation.index, None)));
        }
        if conversation.kind != SampleKind::PlainText {
            add_probe(&renderings, shown, made);
        }
        for mut rendering in renderings {
            tokens.extend(self.tokenizer.control_tokens(&rendering.text));
            let spans = if self.survey { kind_spans(shown, &rendering, tokens) } else { Spans::default() };
            if self.options.thinking == Thinking::Mask {
                rendering.turns.iter_mut().for_each(|turn| mask_thinking(&rendering.text, turn));
            }
            encoder.encode(&rendering, tokens.drain(..), escape, &spans, sample)?;
            self.note_beyond_embedding(&sample.input_ids, conversation, made);
            made.add(&History::default(), sample, &self.options, Row { message: rendering.message, ..written.row.clone() });
        }
        Ok(())
    }

    /// Adds the samples of nested renderings. What they share is tokenized once.
    fn add_nested(
        &self,
        nested: &NestedRenderings,
        written: &Written<'_>,
        encoder: &mut Encoder<'_>,
        RowMemory { tokens, sample }: &mut RowMemory,
        made: &mut PreparedBatch,
    ) -> Result<(), RenderError> {
        let Written { conversation, shown, escape, .. } = *written;
        if let Some(row) = nested.rows.last() {
            add_probe(&[nested.written_out(row)], shown, made);
        }
        if nested.rows.iter().any(|row| row.first < row.message) {
            for what in unseen(shown, &[nested.shown()], self.options.thinking) {
                made.unseen.push((what, place(conversation.index, None)));
            }
        }
        let spans = if self.survey { nested_spans(shown, nested, self.tokenizer) } else { Spans::default() };
        let mut history = History::default();
        for row in &nested.rows {
            encoder.extend(&mut history, &nested.history, row.shared, escape, &spans)?;
            let mut own = Rendering { text: row.text.clone(), turns: vec![row.turn], message: None };
            tokens.extend(self.tokenizer.control_tokens(&own.text));
            let spans = if self.survey { own_spans(shown, row, tokens) } else { Spans::default() };
            if self.options.thinking == Thinking::Mask {
                own.turns.iter_mut().for_each(|turn| mask_thinking(&own.text, turn));
            }
            encoder.encode(&own, tokens.drain(..), escape, &spans, sample)?;
            self.note_beyond_embedding(&sample.input_ids, conversation, made);
            made.add(&history, sample, &self.options, Row { message: Some(row.message), ..written.row.clone() });
        }
        self.note_beyond_embedding(&history.input_ids, conversation, made);
        Ok(())
    }

    /// Notes a token without a row in the model's embedding, once for a conversation.
    fn note_beyond_embedding(&self, ids: &[i32], conversation: &Conversation, made: &mut PreparedBatch) {
        let Some(rows) = self.options.embedding_rows else { return };
        // The largest of all is found with vector instructions, faster than the first that is too large.
        if ids.iter().map(|id| *id as u32).max().is_none_or(|largest| largest < rows) {
            return;
        }
        let Some(id) = ids.iter().map(|id| *id as u32).find(|id| *id >= rows) else { return };
        if made.beyond_embedding.last().is_none_or(|last| last.conversation != conversation.index) {
            let token = String::from_utf8_lossy(&self.tokenizer.bytes(id)).into_owned();
            let message = conversation.messages.iter().position(|message| message.content.contains(&token));
            made.beyond_embedding.push(BeyondEmbedding { conversation: conversation.index, message, token, id });
        }
    }

    /// Notes what was converted, and what the template does not read.
    fn remark(&self, conversation: &Conversation, made: &mut PreparedBatch) {
        made.preferences += u64::from(conversation.kind == SampleKind::Preference);
        conversation.remarks.made().for_each(|remark| made.remarks[remark as usize] += 1);
        made.columns |= conversation.remarks.columns;
        let mut ignored = |key: String| *made.ignored.entry(key).or_default() += 1;
        conversation.remarks.ignored.iter().cloned().for_each(&mut ignored);
        if conversation.kind == SampleKind::PlainText {
            return;
        }
        conversation.chat_template_kwargs.keys().filter(|key| !self.template.mentions(key)).for_each(|key| {
            ignored(format!("chat_template_kwargs.{key}"));
        });
        let mut unread: BTreeSet<&str> = BTreeSet::new();
        for key in conversation.messages.iter().flat_map(|message| message.fields.keys()) {
            if !is_plain_field(key) && !is_provenance(key) && !self.template.mentions(key) {
                unread.insert(key);
            }
        }
        for key in unread {
            ignored(format!("messages[].{key}"));
        }
    }

    /// The whole text as one target, with the token that ends a text.
    fn plain_text(&self, conversation: &Conversation) -> Rendering {
        let message = conversation.messages.first();
        let mut text = message.map_or_else(String::new, |message| message.content.clone());
        let end = self.template.end_of_text().unwrap_or_default();
        if !text.trim_end().ends_with(end) {
            text.push_str(end);
        }
        let trained = message.is_some_and(|message| message.train);
        let turn = Turn { prompt_end: 0, target_start: 0, target_end: text.len() };
        Rendering { text, turns: trained.then_some(turn).into_iter().collect(), message: None }
    }

    /// The place of the first message that contains the text of a special token.
    fn place_of_literal(&self, conversation: &Conversation) -> String {
        let has_literal = |text: &str| self.tokenizer.control_tokens(text).next().is_some();
        place(conversation.index, conversation.messages.iter().position(|message| has_literal(&message.content)))
    }
}

/// Takes the batches in order.
fn collect(shared: &PreparationState<'_>, results: &Receiver<BatchOutcome>, total: u64, sink: &mut dyn Sink) -> Result<Ending> {
    let mut collector = Collector::new(shared.work.options.clone(), shared.work.survey);
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for (number, made) in results {
        waiting.insert(number, made);
        while let Some(made) = waiting.remove(&next) {
            next += 1;
            signals::check()?;
            match made {
                Ok(made) => {
                    sink.on_progress(made.read, total)?;
                    let before = collector.probes[0].len();
                    collector.take(made, sink)?;
                    if before < PROBES && collector.probes[0].len() == PROBES {
                        (shared.work.on_probes)(&collector.probes[0]);
                    }
                }
                // Report the fault in the files rather than its consequence.
                Err(_) if !shared.work.survey && !collector.findings.problems.is_empty() => {}
                Err(RenderError::Unsupported(why)) => return Ok(Ending::Unsupported(why)),
                Err(RenderError::Failed(error)) => return Err(error),
            }
            shared.window.lock().unwrap_or_else(PoisonError::into_inner).written = next;
            shared.moved.notify_all();
        }
    }
    if collector.probes[0].len() < PROBES {
        (shared.work.on_probes)(&collector.probes[0]);
    }
    Ok(Ending::Done { counts: collector.counts, findings: Box::new(collector.findings), probes: collector.probes })
}
