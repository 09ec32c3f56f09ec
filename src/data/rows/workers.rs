//! The preparation pipeline of a data set: it is read, checked, rendered, tokenized and masked on all cores, and written in file order.
//!
//! Threads process batches of the file, and the caller's thread writes the results in the order of the file. The number of batches in
//! flight is limited, so memory does not grow with the file.
//!
//! Duplicates are recognized by 64-bit hashes, which cost 8 bytes per conversation. For two million conversations the probability of an
//! error is one in ten million.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Result;
use xxhash_rust::xxh3::Xxh3;

use crate::base::error::{Error, Kind};
use crate::base::signals;
use crate::data::parse::conversation::{Conversation, Role};
use crate::data::read::problem::Problems;
use crate::data::read::reader::Reader;
use crate::data::render::rendering::{Render, RenderError, Rendering, place};
use crate::data::render::thinking::{drop_thinking, mask_thinking};
use crate::data::rows::arrow::TokenRows;
use crate::data::rows::counts::Counts;
use crate::data::rows::findings::{Findings, TooLong};
use crate::data::rows::options::{Options, Overlong, Thinking};
use crate::data::rows::sample::{Encoder, Escapes, IGNORED, Sample};
use crate::data::tokenizer::Tokenizer;

/// Limits of the conversations kept for the comparison with transformers and tokenizers: number per batch, total number, and bytes of
/// one. The first of a batch may be longer, so that data with only long conversations have some too.
const PROBES_OF_BATCH: usize = 2;
const PROBES: usize = 64;
const PROBE_BYTES: usize = 1 << 14;
const FIRST_PROBE_BYTES: usize = 1 << 20;

/// The input of a preparation.
pub struct Preparation<'a> {
    pub files: Vec<PathBuf>,
    pub tokenizer: &'a Tokenizer,
    pub renderer: &'a dyn Render,
    pub options: Options,
    /// Whether faulty conversations are recorded and skipped, instead of ending the preparation.
    pub survey: bool,
    /// Called once, as soon as no more are collected, with the probes that use little of the template.
    pub on_probes: &'a (dyn Fn(&[RenderProbe]) + Sync),
}

/// One sample, without its tokens.
#[derive(Clone, Debug)]
pub struct Row {
    /// Index of the conversation, from 0, and of the trained message if the conversation has several samples.
    pub conversation: usize,
    pub message: Option<usize>,
    /// Tokens before truncation.
    pub length: u32,
    /// Tokens kept; 0 for a dropped sample.
    pub kept: u32,
    pub targets: u32,
    pub separately_tokenized_turns: u32,
}

/// A prepared batch.
#[derive(Debug, Default)]
pub struct PreparedBatch {
    pub rows: Vec<Row>,
    /// The tokens of the kept rows, in order.
    pub tokens: TokenRows,
    /// Messages per role, in the order of [`Role::ALL`].
    pub roles: [u64; Role::ALL.len()],
    conversations: Vec<ReadConversation>,
    /// Messages about conversations that the chat template refuses.
    refused: Vec<String>,
    probes: [Vec<RenderProbe>; 2],
    problems: Problems,
    /// Bytes of the files up to the end of this batch.
    read: u64,
}

/// A conversation that was read.
#[derive(Debug)]
struct ReadConversation {
    index: usize,
    hash: u64,
    /// Place of a message that contains the text of a special token.
    literal: Option<String>,
}

/// Receives the rows. Both methods are called in the order of the data.
pub trait Sink {
    /// Receives the rows of a batch, without dropped duplicates.
    fn take(&mut self, made: PreparedBatch) -> Result<()>;
    /// Reports progress in bytes of the files.
    fn tell(&mut self, done: u64, total: u64) -> Result<()>;
}

/// A conversation as it was given to the renderer, and its renderings.
#[derive(Clone, Debug)]
pub struct RenderProbe {
    pub conversation: Conversation,
    pub renderings: Vec<Rendering>,
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
    let reader = Reader::open(work.files.clone())?;
    let total = reader.bytes_total();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let shared = PreparationState { work, reader: Mutex::new(reader), window: Mutex::default(), moved: Condvar::new() };
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads {
            let (sender, shared) = (sender.clone(), &shared);
            scope.spawn(move || shared.batches(threads as u64 * 4, &sender));
        }
        drop(sender);
        let ending = Collector::new(work).collect(&shared, &results, total, sink);
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
                    self.work.batch(conversations, &mut encoder).map(|made| PreparedBatch { problems, read, ..made })
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

impl Preparation<'_> {
    /// Renders, tokenizes and masks conversations.
    fn batch(&self, conversations: Vec<Conversation>, encoder: &mut Encoder<'_>) -> Result<PreparedBatch, RenderError> {
        let mut made = PreparedBatch::default();
        made.tokens.reserve(conversations.iter().flat_map(|one| &one.messages).map(|message| message.content.len()).sum::<usize>() / 3);
        let mut sample = Sample::default();
        for mut conversation in conversations {
            let hash = digest(&conversation);
            if self.options.thinking == Thinking::Drop {
                drop_thinking(&mut conversation);
            }
            let escaped = Escapes::insert(&conversation, self.tokenizer);
            let literal = escaped.is_some().then(|| self.place_of_literal(&conversation));
            made.conversations.push(ReadConversation { index: conversation.index, hash, literal });
            conversation.messages.iter().for_each(|message| made.roles[message.role as usize] += 1);
            let (shown, escape) = escaped.as_ref().map_or((&conversation, None), |(escaped, escape)| (escaped, Some(*escape)));
            let renderings = match self.renderer.renderings(shown) {
                Err(RenderError::Failed(error)) if self.survey && Error::of(&error).kind == Kind::Input => {
                    made.refused.push(error.to_string());
                    continue;
                }
                renderings => renderings?,
            };
            let rich = shown.tools.is_some() || shown.messages.iter().any(|message| !message.fields.is_empty());
            let probes = &mut made.probes[usize::from(rich)];
            let most = if probes.is_empty() { FIRST_PROBE_BYTES } else { PROBE_BYTES };
            if probes.len() < PROBES_OF_BATCH && renderings.iter().map(|one| one.text.len()).sum::<usize>() <= most {
                probes.push(RenderProbe { conversation: shown.clone(), renderings: renderings.clone() });
            }
            for mut rendering in renderings {
                if self.options.thinking == Thinking::Mask {
                    rendering.turns.iter_mut().for_each(|turn| mask_thinking(&rendering.text, turn));
                }
                encoder.encode(&rendering, escape, &mut sample)?;
                let length = sample.input_ids.len();
                let most = self.options.max_length as usize;
                let kept = match self.options.overlong {
                    _ if length <= most => 0..length,
                    Overlong::TruncateLeft => length - most..length,
                    Overlong::TruncateRight => 0..most,
                    Overlong::Error | Overlong::Drop => 0..0,
                };
                // No token predicts the first kept token.
                let targets: usize =
                    sample.labels[kept.clone()].get(1..).unwrap_or_default().iter().map(|label| usize::from(*label != IGNORED)).sum();
                let kept = if targets == 0 { 0..0 } else { kept };
                if targets > 0 {
                    made.tokens.push(&sample.input_ids[kept.clone()], &sample.labels[kept.clone()]);
                    let first = made.tokens.labels.len() - kept.len();
                    made.tokens.labels[first] = IGNORED;
                }
                made.rows.push(Row {
                    conversation: conversation.index,
                    message: rendering.message,
                    length: length as u32,
                    kept: kept.len() as u32,
                    targets: targets as u32,
                    separately_tokenized_turns: sample.separately_tokenized_turns,
                });
            }
        }
        Ok(made)
    }

    /// The place of the first message that contains the text of a special token.
    fn place_of_literal(&self, conversation: &Conversation) -> String {
        let has_literal = |text: &str| self.tokenizer.control_tokens(text).next().is_some();
        place(conversation.index, conversation.messages.iter().position(|message| has_literal(&message.content)))
    }
}

/// Orders and counts the batches.
struct Collector {
    options: Options,
    survey: bool,
    counts: Counts,
    seen: HashSet<u64>,
    findings: Findings,
    probes: [Vec<RenderProbe>; 2],
}

impl Collector {
    fn new(work: &Preparation<'_>) -> Collector {
        Collector {
            options: work.options,
            survey: work.survey,
            counts: Counts::default(),
            seen: HashSet::new(),
            findings: Findings::default(),
            probes: Default::default(),
        }
    }

    fn collect(
        mut self,
        shared: &PreparationState<'_>,
        results: &Receiver<BatchOutcome>,
        total: u64,
        sink: &mut dyn Sink,
    ) -> Result<Ending> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (number, made) in results {
            waiting.insert(number, made);
            while let Some(made) = waiting.remove(&next) {
                next += 1;
                signals::check()?;
                match made {
                    Ok(made) => {
                        sink.tell(made.read, total)?;
                        let before = self.probes[0].len();
                        self.take(made, sink)?;
                        if before < PROBES && self.probes[0].len() == PROBES {
                            (shared.work.on_probes)(&self.probes[0]);
                        }
                    }
                    // Report the fault in the files rather than its consequence.
                    Err(_) if !self.survey && !self.findings.problems.is_empty() => {}
                    Err(RenderError::Unsupported(why)) => return Ok(Ending::Unsupported(why)),
                    Err(RenderError::Failed(error)) => return Err(error),
                }
                shared.window.lock().unwrap_or_else(PoisonError::into_inner).written = next;
                shared.moved.notify_all();
            }
        }
        if self.probes[0].len() < PROBES {
            (shared.work.on_probes)(&self.probes[0]);
        }
        Ok(Ending::Done { counts: self.counts, findings: Box::new(self.findings), probes: self.probes })
    }

    fn take(&mut self, mut made: PreparedBatch, sink: &mut dyn Sink) -> Result<()> {
        self.findings.problems.append(std::mem::take(&mut made.problems));
        made.refused.drain(..).for_each(|refused| self.findings.refused.add(refused));
        for (kept, more) in self.probes.iter_mut().zip(&mut made.probes) {
            more.truncate(PROBES - kept.len());
            kept.append(more);
        }
        let mut repeated = HashSet::new();
        for ReadConversation { index, hash, literal } in made.conversations.drain(..) {
            self.counts.conversations += 1;
            self.counts.literal_special_tokens += u64::from(literal.is_some());
            if let Some(place) = literal {
                self.findings.literal_special_tokens.add(place);
            }
            if !self.seen.insert(hash) {
                self.counts.duplicates += 1;
                self.findings.duplicates.add(place(index, None));
                if self.options.drop_duplicates {
                    repeated.insert(index);
                }
            }
        }
        if !repeated.is_empty() {
            made.remove(&repeated);
        }
        let mut earlier = None;
        for row in &made.rows {
            let length = u64::from(row.length);
            self.counts.longest = self.counts.longest.max(length);
            self.counts.separately_tokenized_turns += u64::from(row.separately_tokenized_turns);
            if row.length > self.options.max_length {
                self.findings.too_long.add(TooLong { place: place(row.conversation, row.message), tokens: row.length });
            }
            let another = earlier.replace(row.conversation) != Some(row.conversation);
            self.counts.split_conversations += u64::from(another && row.message.is_some());
            if row.kept == 0 {
                self.counts.dropped += 1;
                self.counts.lost_tokens += length;
                self.findings.too_long_dropped += u64::from(row.length > self.options.max_length);
                continue;
            }
            self.counts.rows += 1;
            self.counts.tokens += u64::from(row.kept);
            self.counts.target_tokens += u64::from(row.targets);
            self.counts.truncated += u64::from(row.kept < row.length);
            self.counts.lost_tokens += length - u64::from(row.kept);
        }
        if self.survey || self.findings.problems.is_empty() { sink.take(made) } else { Ok(()) }
    }
}

impl PreparedBatch {
    /// Removes the rows of conversations by their indices.
    fn remove(&mut self, repeated: &HashSet<usize>) {
        let mut tokens = TokenRows::default();
        let mut kept_row = 0;
        self.rows.retain(|row| {
            let wanted = !repeated.contains(&row.conversation);
            if row.kept > 0 {
                if wanted {
                    let (ids, labels) = self.tokens.get(kept_row);
                    tokens.push(ids, labels);
                }
                kept_row += 1;
            }
            wanted
        });
        self.tokens = tokens;
    }
}

/// A hash of everything that determines a conversation's samples. 64 bits: among two million conversations, the probability of a
/// collision is one in ten million.
fn digest(conversation: &Conversation) -> u64 {
    let mut hash = Xxh3::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for message in &conversation.messages {
        field(message.role.as_str().as_bytes());
        field(message.content.as_bytes());
        field(&[u8::from(message.train)]);
        if !message.fields.is_empty() {
            field(&serde_json::to_vec(&message.fields).unwrap_or_default());
        }
    }
    for value in [&conversation.tools, &conversation.documents] {
        field(value.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes());
    }
    if !conversation.chat_template_kwargs.is_empty() {
        field(&serde_json::to_vec(&conversation.chat_template_kwargs).unwrap_or_default());
    }
    hash.digest()
}
