//! Problems and peculiarities of a data set, each with its first places, and whether training accepts them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::base::error;
use crate::base::numbers::counted;
use crate::data::parse::remarks::Remark;
use crate::data::read::problem::Problems;
use crate::data::render::rendering::place;
use crate::data::rows::counts::Counts;
use crate::data::rows::options::{Options, Overlong};
use crate::data::rows::text_checks;
use crate::data::rows::text_checks::{AnswerFault, Unprinted};

/// Places kept for each kind of finding.
const KEPT: usize = 20;
/// Places listed in one message.
const NAMED: usize = 5;
/// Keys listed in one message.
const NAMED_KEYS: usize = 12;

/// The first items, and the number of all.
#[derive(Clone, Debug)]
pub struct First<T> {
    pub first: Vec<T>,
    pub count: u64,
}

impl<T> Default for First<T> {
    fn default() -> First<T> {
        First { first: Vec::new(), count: 0 }
    }
}

impl<T> First<T> {
    pub(crate) fn add(&mut self, one: T) {
        self.count += 1;
        if self.first.len() < KEPT {
            self.first.push(one);
        }
    }

    /// `[3], [8], and 5 more`; `name` formats an item.
    pub(crate) fn named(&self, name: impl Fn(&T) -> String) -> String {
        let names: Vec<String> = self.first.iter().take(NAMED).map(name).collect();
        let more = self.count - names.len() as u64;
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        format!("{}{more}", names.join(", "))
    }
}

/// A sample of more than `max_length` tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct TooLong {
    /// `[3]`, or `[3].messages[5]` if a conversation becomes one sample per turn.
    pub place: String,
    pub tokens: u32,
}

/// The findings in a data set.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Faults of the files.
    pub problems: Problems,
    /// Messages about conversations that the chat template refuses.
    pub refused: First<String>,
    pub too_long: First<TooLong>,
    /// Number of too long samples that were dropped.
    pub too_long_dropped: u64,
    /// Places of messages that contain the text of a special token.
    pub literal_special_tokens: First<String>,
    /// Conversations equal to an earlier one.
    pub duplicates: First<String>,
    /// Conversations with each remark, in the order of [`Remark::ALL`].
    pub remarks: [u64; Remark::ALL.len()],
    /// Keys that nothing reads, and how many conversations have them.
    pub ignored: BTreeMap<String, u64>,
    /// Columns that the parameter `columns` names and that are there, in their order, as bits.
    pub(crate) columns: u16,
    /// Conversations with something that the chat template does not show, in the order of [`Unseen::ALL`].
    pub unseen: [First<String>; Unseen::ALL.len()],
    /// Trained answers with a fault, in the order of [`AnswerFault::ALL`].
    pub answer_faults: [First<String>; AnswerFault::ALL.len()],
    /// Characters that are not printed, each with its number and first place.
    pub(crate) unprinted: Unprinted,
    /// Samples without a token to train on.
    pub untrained: First<String>,
    /// Conversations with a token beyond the model's embedding.
    pub beyond_embedding: First<BeyondEmbedding>,
    /// Preference pairs, which cannot be trained on.
    pub preferences: u64,
}

/// What a chat template may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseen {
    Reasoning,
    Tools,
    ToolCalls,
    Prose,
}

impl Unseen {
    pub(crate) const ALL: [Unseen; 4] = [Unseen::Reasoning, Unseen::Tools, Unseen::ToolCalls, Unseen::Prose];

    /// Words that follow "3 conversations have ".
    fn text(self) -> &'static str {
        match self {
            Unseen::Reasoning => {
                "reasoning (reasoning_content, thinking or reasoning) that the chat template does not show, so it is not trained on; write it \
                 into the content as <think>…</think>, or use a template that shows it"
            }
            Unseen::Tools => "tools that the chat template does not show, so the model does not learn from them; use a template with tools",
            Unseen::ToolCalls => "tool calls that the chat template does not show, so they are not trained on; use a template with tools",
            Unseen::Prose => {
                "<think> or </think> in the words of an answer, and the chat template takes the text around it as reasoning and leaves it out; \
                 write the tags in another way"
            }
        }
    }
}

/// A token whose id has no row in the model's embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeyondEmbedding {
    pub conversation: usize,
    /// The first message with the text of the token; `None` if the template writes it.
    pub message: Option<usize>,
    pub token: String,
    pub id: u32,
}

impl Findings {
    /// Checks that the data can be trained on.
    ///
    /// # Errors
    /// Kind `input`: faults in the files, too long samples with `overlong` `error`, or no sample left.
    pub fn refusal(&self, counts: &Counts, options: &Options, files: &[PathBuf]) -> Result<()> {
        self.problems.clone().into_result(files)?;
        match self.sentences(counts, options).into_iter().next() {
            Some(sentence) => Err(error::input(sentence)),
            None => Ok(()),
        }
    }

    /// What was converted, as sentences.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.remark_sentences(false)
    }

    fn remark_sentences(&self, warnings: bool) -> Vec<String> {
        let made = Remark::ALL.into_iter().zip(self.remarks).filter(|(remark, count)| *count > 0 && remark.is_warning() == warnings);
        made.map(|(remark, count)| format!("in {}, {}", conversations(count), remark.text())).collect()
    }

    /// Possible mistakes that training accepts, as sentences.
    pub(crate) fn warnings(&self, options: &Options) -> Vec<String> {
        let absent = options.layout.columns.iter().enumerate().filter(|(i, _)| self.problems.is_empty() && self.columns & 1 << i == 0);
        let absent = absent.map(|(_, (meaning, column))| format!("columns says that {meaning} is {column:?}, which no conversation has"));
        let mut warnings: Vec<String> = absent.collect();
        if !self.ignored.is_empty() {
            let named = self.ignored.iter().take(NAMED_KEYS).map(|(key, count)| format!("{key:?} in {}", conversations(*count)));
            let more = self.ignored.len().saturating_sub(NAMED_KEYS);
            let more = if more > 0 { format!(", and {}", counted(more as u64, "more key")) } else { String::new() };
            warnings.push(format!(
                "these keys are not used: {}{more}; remove them, or name their meaning with columns",
                named.collect::<Vec<_>>().join(", ")
            ));
        }
        warnings.extend(self.remark_sentences(true));
        for (fault, places) in AnswerFault::ALL.into_iter().zip(&self.answer_faults).filter(|(_, places)| places.count > 0) {
            let [several, one] = fault.text();
            let answers = if places.count == 1 { format!("1 answer {one}") } else { format!("{} answers {several}", places.count) };
            warnings.push(format!("{answers} {}: {}; correct them, or set \"train\": false", fault.rest(), places.named(Clone::clone)));
        }
        if self.untrained.count > 0 {
            let samples = if self.untrained.count == 1 { "1 sample has".into() } else { format!("{} samples have", self.untrained.count) };
            warnings.push(format!("{samples} no token to train on and no effect: {}", self.untrained.named(Clone::clone)));
        }
        if !self.unprinted.is_empty() {
            let mut all: Vec<_> = self.unprinted.iter().collect();
            all.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
            let named = all.iter().take(NAMED_KEYS).map(|(symbol, (count, place))| {
                let times = if *count == 1 { "once".into() } else { format!("{count} times") };
                format!("{} {times}, first in {place}", text_checks::name(**symbol))
            });
            let more = all.len().saturating_sub(NAMED_KEYS);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            warnings.push(format!(
                "characters that are not printed: {}{more}; they are trained on as they are, so remove those that are not meant",
                named.collect::<Vec<_>>().join("; ")
            ));
        }
        let unseen = Unseen::ALL.into_iter().zip(&self.unseen).filter(|(_, places)| places.count > 0);
        warnings.extend(unseen.map(|(what, places)| format!("{} {} ({})", have(places.count), what.text(), places.named(Clone::clone))));
        warnings
    }

    /// All reasons of `refusal` besides faults in the files, each as a sentence.
    pub(crate) fn sentences(&self, counts: &Counts, options: &Options) -> Vec<String> {
        let mut sentences = self.refused.first.clone();
        if let Some(BeyondEmbedding { conversation, message, token, id }) = self.beyond_embedding.first.first() {
            let others = self.beyond_embedding.count - 1;
            let more = if others > 0 { format!(" (and in {} more)", conversations(others)) } else { String::new() };
            sentences.push(format!(
                "conversation {}{more}: the token {token:?} has the id {id}, and the model's embedding has only {} rows; use the \
                 tokenizer of this model, or enlarge the embedding",
                place(*conversation, *message),
                options.embedding_rows.unwrap_or_default()
            ));
        }
        if self.preferences > 0 {
            sentences.push(format!(
                "{} preference pairs (chosen and rejected), and training on preferences (DPO) is not supported yet; to train on the preferred \
                 answers alone, give them with columns: prompt as user, chosen as assistant",
                have(self.preferences)
            ));
        }
        let unnamed = self.refused.count - self.refused.first.len() as u64;
        if unnamed > 0 {
            sentences.push(format!("the model's chat template refuses {}", counted(unnamed, "more conversation")));
        }
        let most = options.max_length;
        if self.too_long.count > 0 && options.overlong == Overlong::Error {
            let longest = counts.longest;
            let fix = match options.positions.filter(|positions| longest > *positions) {
                Some(positions) => format!("The longest needs {longest}, and the model has {positions} positions: split it, or set"),
                None => format!("Raise max_length (the longest needs {longest}), or set"),
            };
            sentences.push(format!(
                "{} more than max_length {most} tokens: conversation {}. {fix} overlong to drop, truncate_left or truncate_right",
                if self.too_long.count == 1 { "1 sample has".to_string() } else { format!("{} samples have", self.too_long.count) },
                self.too_long.named(|one| format!("{} has {}", one.place, one.tokens))
            ));
        } else if counts.rows == 0 && counts.dropped > 0 {
            let overlong = serde_json::to_value(options.overlong).unwrap_or_default();
            sentences.push(format!(
                "no sample is left to train on: {} dropped. With overlong {} and max_length {most}, {} too long, or truncation removed \
                 every turn to train on (raise max_length, or use truncate_left, which keeps the last turns); the others have only \
                 assistant turns with \"train\": false",
                if counts.dropped == 1 { "the only one is".to_string() } else { format!("all {} samples are", counts.dropped) },
                overlong.as_str().unwrap_or_default(),
                if self.too_long_dropped == 1 { "1 was".to_string() } else { format!("{} were", self.too_long_dropped) }
            ));
        }
        sentences
    }
}

fn conversations(count: u64) -> String {
    if count == 1 { "1 conversation".into() } else { format!("{count} conversations") }
}

fn have(count: u64) -> String {
    if count == 1 { "1 conversation has".into() } else { format!("{count} conversations have") }
}
