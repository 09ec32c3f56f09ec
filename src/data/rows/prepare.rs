//! The way of a data set: read, checked, rendered, tokenized and masked on all cores, written in its order.
//!
//! Threads take batches of the file in turn, and the caller's thread writes what they give in the order of the file. No more than
//! a few batches are on their way, so memory does not grow with the file.
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
use crate::data::rows::arrow::Rows;
use crate::data::rows::counts::Counts;
use crate::data::rows::findings::{Findings, TooLong};
use crate::data::rows::options::{Options, Overlong, Thinking};
use crate::data::rows::sample::{Encoder, IGNORED, Marks, Sample};
use crate::data::tokenizer::Tokenizer;

/// Conversations kept for the comparison with transformers and tokenizers: of a batch, of all, and how long one may be; the first
/// of a batch may be longer, so that data of long conversations have some too.
const PROBES_OF_BATCH: usize = 2;
const PROBES: usize = 64;
const PROBE_BYTES: usize = 1 << 14;
const FIRST_PROBE_BYTES: usize = 1 << 20;

/// What a data set is prepared with.
pub struct Preparation<'a> {
    pub files: Vec<PathBuf>,
    pub tokenizer: &'a Tokenizer,
    pub renderer: &'a dyn Render,
    pub options: Options,
    /// Whether what is wrong is noted and left out, and the rest goes on.
    pub survey: bool,
    /// Is told once, as soon as no more are kept, the probes that use little of the template.
    pub on_probes: &'a (dyn Fn(&[Probe]) + Sync),
}

/// One sample on its way to the writer, its tokens beside.
#[derive(Clone, Debug)]
pub struct Row {
    /// Index of the conversation, from 0, and of the message it is for where there are several samples.
    pub conversation: usize,
    pub message: Option<usize>,
    /// Tokens before anything is cut.
    pub length: u32,
    /// Tokens kept, none for a sample that is dropped.
    pub kept: u32,
    pub targets: u32,
    pub recut_turns: u32,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Made {
    pub rows: Vec<Row>,
    /// The tokens of the rows that are kept, in their order.
    pub tokens: Rows,
    /// How many messages of each role, in the order of [`Role::ALL`].
    pub roles: [u64; Role::ALL.len()],
    conversations: Vec<Seen>,
    /// What the chat template says about conversations that it refuses.
    refused: Vec<String>,
    probes: [Vec<Probe>; 2],
    problems: Problems,
    /// Bytes of the files behind this batch.
    read: u64,
}

/// A conversation that was read.
#[derive(Debug)]
struct Seen {
    index: usize,
    hash: u64,
    /// The message, or the conversation, in which a text spells a control token.
    forged: Option<String>,
}

/// Who takes the rows. Both are called in the order of the data.
pub trait Sink {
    /// Rows of a batch; those of duplicates that are to be left out are gone.
    fn take(&mut self, made: Made) -> Result<()>;
    /// How far it is, in bytes of the files.
    fn tell(&mut self, done: u64, total: u64) -> Result<()>;
}

/// A conversation, as it went to the renderer, and what came of it.
#[derive(Clone, Debug)]
pub struct Probe {
    pub conversation: Conversation,
    pub renderings: Vec<Rendering>,
}

/// How the preparation ended, if no error ended it.
#[derive(Debug)]
pub enum Ending {
    /// The probes: of those conversations that use little of the template, and of those that use more, the first of each batch.
    Done { counts: Counts, findings: Box<Findings>, probes: [Vec<Probe>; 2] },
    /// A conversation that only transformers can render: begin anew with it.
    Unsupported(String),
}

/// What the threads share.
struct Shared<'a> {
    work: &'a Preparation<'a>,
    reader: Mutex<Reader>,
    window: Mutex<Window>,
    moved: Condvar,
}

#[derive(Default)]
struct Window {
    taken: u64,
    written: u64,
    stop: bool,
}

type Outcome = (u64, Result<Made, RenderError>);

/// Prepares all conversations of the files.
///
/// Faults of the data, overlong samples and the like are findings, and the caller decides; see [`Findings::refusal`].
///
/// # Errors
/// Kind `input`: a conversation that the template refuses (a finding, too, in a survey). Kind `model`: a template that renders
/// prompts and turns apart.
pub fn prepare(work: &Preparation<'_>, sink: &mut dyn Sink) -> Result<Ending> {
    let reader = Reader::open(work.files.clone())?;
    let total = reader.bytes_total();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let shared = Shared { work, reader: Mutex::new(reader), window: Mutex::default(), moved: Condvar::new() };
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads {
            let (sender, shared) = (sender.clone(), &shared);
            scope.spawn(move || shared.batches(threads as u64 * 4, &sender));
        }
        drop(sender);
        let ending = Collector::new(work).collect(&shared, &results, total, sink);
        // Whoever waits for room is let go; what is on its way goes nowhere.
        shared.window.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        shared.moved.notify_all();
        drop(results);
        ending
    })
}

impl Shared<'_> {
    /// Takes batch after batch until none is left.
    fn batches(&self, room: u64, results: &Sender<Outcome>) {
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
                // Numbered while the reader is held: in the order of the file.
                let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
                window.taken += 1;
                (window.taken - 1, batch, reader.bytes_done())
            };
            let made = match batch {
                Ok(None) => return,
                // A panic must not leave the others waiting for this batch.
                Ok(Some(batch)) => catch_unwind(AssertUnwindSafe(|| {
                    let mut problems = Problems::default();
                    let conversations = batch.conversations(&mut problems);
                    self.work.batch(conversations, &mut encoder).map(|made| Made { problems, read, ..made })
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
    anyhow::anyhow!("a conversation could not be prepared: {}", what.unwrap_or("a panic without words"))
}

impl Preparation<'_> {
    /// Renders, tokenizes and masks conversations.
    fn batch(&self, conversations: Vec<Conversation>, encoder: &mut Encoder<'_>) -> Result<Made, RenderError> {
        let mut made = Made::default();
        made.tokens.reserve(conversations.iter().flat_map(|one| &one.messages).map(|message| message.content.len()).sum::<usize>() / 3);
        let mut sample = Sample::default();
        for mut conversation in conversations {
            let hash = digest(&conversation);
            if self.options.thinking == Thinking::Drop {
                drop_thinking(&mut conversation);
            }
            let marked = Marks::set(&conversation, self.tokenizer);
            let forged = marked.is_some().then(|| self.forged(&conversation));
            made.conversations.push(Seen { index: conversation.index, hash, forged });
            conversation.messages.iter().for_each(|message| made.roles[message.role as usize] += 1);
            let (shown, mark) = marked.as_ref().map_or((&conversation, None), |(marked, mark)| (marked, Some(*mark)));
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
                probes.push(Probe { conversation: shown.clone(), renderings: renderings.clone() });
            }
            for mut rendering in renderings {
                if self.options.thinking == Thinking::Mask {
                    rendering.turns.iter_mut().for_each(|turn| mask_thinking(&rendering.text, turn));
                }
                encoder.encode(&rendering, mark, &mut sample)?;
                let length = sample.input_ids.len();
                let most = self.options.max_length as usize;
                let kept = match self.options.overlong {
                    _ if length <= most => 0..length,
                    Overlong::TruncateLeft => length - most..length,
                    Overlong::TruncateRight => 0..most,
                    Overlong::Error | Overlong::Drop => 0..0,
                };
                // Nothing predicts the first token that is left.
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
                    recut_turns: sample.recut_turns,
                });
            }
        }
        Ok(made)
    }

    /// Where a text spells a control token.
    fn forged(&self, conversation: &Conversation) -> String {
        let spells = |text: &str| self.tokenizer.control_tokens(text).next().is_some();
        place(conversation.index, conversation.messages.iter().position(|message| spells(&message.content)))
    }
}

/// Puts the batches in order and counts.
struct Collector {
    options: Options,
    survey: bool,
    counts: Counts,
    seen: HashSet<u64>,
    findings: Findings,
    probes: [Vec<Probe>; 2],
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

    fn collect(mut self, shared: &Shared<'_>, results: &Receiver<Outcome>, total: u64, sink: &mut dyn Sink) -> Result<Ending> {
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
                    // A fault in the files is more to the point than what it led to.
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

    fn take(&mut self, mut made: Made, sink: &mut dyn Sink) -> Result<()> {
        self.findings.problems.append(std::mem::take(&mut made.problems));
        made.refused.drain(..).for_each(|refused| self.findings.refused.add(refused));
        for (kept, more) in self.probes.iter_mut().zip(&mut made.probes) {
            more.truncate(PROBES - kept.len());
            kept.append(more);
        }
        let mut repeated = HashSet::new();
        for Seen { index, hash, forged } in made.conversations.drain(..) {
            self.counts.conversations += 1;
            self.counts.forged_control_tokens += u64::from(forged.is_some());
            if let Some(place) = forged {
                self.findings.forged.add(place);
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
            made.leave_out(&repeated);
        }
        let mut earlier = None;
        for row in &made.rows {
            let length = u64::from(row.length);
            self.counts.longest = self.counts.longest.max(length);
            self.counts.recut_turns += u64::from(row.recut_turns);
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

impl Made {
    /// Takes the rows of some conversations, by their index, out.
    fn leave_out(&mut self, repeated: &HashSet<usize>) {
        let mut tokens = Rows::default();
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

/// A hash of everything that a conversation's samples are made of. 64 bits: among two million conversations two different ones have
/// the same with a probability of one to ten million.
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
