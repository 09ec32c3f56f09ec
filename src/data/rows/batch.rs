//! The samples of one batch of conversations, and what was noticed while they were made.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use anyhow::Result;

use crate::data::parse::conversation::{Conversation, Role};
use crate::data::parse::remarks::Remark;
use crate::data::read::problem::Problems;
use crate::data::render::rendering::Rendering;
use crate::data::rows::arrow::TokenRows;
use crate::data::rows::findings::{BeyondEmbedding, Unseen};
use crate::data::rows::options::{Options, Overlong};
use crate::data::rows::sample::{History, Sample};
use crate::data::rows::selection::RowOrigin;
use crate::data::rows::text_checks::{AnswerFault, Unprinted};
use crate::data::rows::turn_kinds::KindCounts;

/// One sample, without its tokens.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Index of the conversation, from 0, and of the trained message if the conversation has several samples.
    pub conversation: usize,
    /// Index of the conversation's file.
    pub file: usize,
    /// Hash of the conversation: equal ones are the same.
    pub hash: u64,
    pub message: Option<usize>,
    /// Tokens before truncation.
    pub length: u32,
    /// Tokens kept; 0 for a dropped sample.
    pub kept: u32,
    pub targets: u32,
    pub separately_tokenized_turns: u32,
    /// Tokens kept and trained tokens by kind of turn; only in a survey.
    pub(crate) kinds: KindCounts,
}

impl Row {
    pub(crate) fn origin(&self) -> RowOrigin {
        RowOrigin { conversation: self.conversation as u32, hash: self.hash, file: self.file as u32 }
    }
}

/// A prepared batch.
#[derive(Debug, Default)]
pub struct PreparedBatch {
    pub rows: Vec<Row>,
    /// The tokens of the kept rows, in order.
    pub tokens: TokenRows,
    /// Messages per role, in the order of [`Role::ALL`].
    pub roles: [u64; Role::ALL.len()],
    pub(crate) conversations: Vec<ReadConversation>,
    /// Messages about conversations that the chat template refuses.
    pub(crate) refused: Vec<String>,
    pub(crate) remarks: [u64; Remark::ALL.len()],
    pub(crate) ignored: BTreeMap<String, u64>,
    /// Those that the parameter `columns` names and that are there, in their order, as bits.
    pub(crate) columns: u16,
    pub(crate) unseen: Vec<(Unseen, String)>,
    /// Faults of trained answers, with their places.
    pub(crate) answer_faults: Vec<(AnswerFault, String)>,
    /// Characters that are not printed.
    pub(crate) unprinted: Unprinted,
    /// Tokens beyond the model's embedding, with the place of the first in each conversation.
    pub(crate) beyond_embedding: Vec<BeyondEmbedding>,
    pub(crate) preferences: u64,
    pub(crate) probes: [Vec<RenderProbe>; 2],
    pub(crate) problems: Problems,
    /// Bytes of the files up to the end of this batch.
    pub(crate) read: u64,
}

/// A conversation that was read.
#[derive(Debug)]
pub(crate) struct ReadConversation {
    pub index: usize,
    pub hash: u64,
    /// Place of a message that contains the text of a special token.
    pub literal: Option<String>,
}

/// Receives the rows. Both methods are called in the order of the data.
pub trait Sink {
    /// Receives the rows of a batch, without dropped duplicates.
    fn take(&mut self, made: PreparedBatch) -> Result<()>;
    /// Reports progress in bytes of the files.
    fn on_progress(&mut self, done: u64, total: u64) -> Result<()>;
}

/// A conversation as it was given to the renderer, and its renderings.
#[derive(Clone, Debug)]
pub struct RenderProbe {
    pub conversation: Conversation,
    pub renderings: Vec<Rendering>,
}

impl PreparedBatch {
    /// Adds a sample: the tokens of `history` and its own. Too long ones are treated as the options say. `row` has what is known already.
    pub(crate) fn add(&mut self, history: &History, own: &Sample, options: &Options, row: Row) {
        let (before, own_length) = (history.input_ids.len(), own.input_ids.len());
        let (length, most) = (before + own_length, options.max_length as usize);
        let kept = match options.overlong {
            _ if length <= most => 0..length,
            Overlong::TruncateLeft => length - most..length,
            Overlong::TruncateRight => 0..most,
            Overlong::Error | Overlong::Drop => 0..0,
        };
        let kept_before = kept.start.min(before)..kept.end.min(before);
        let kept_own = kept.start.max(before) - before..kept.end.max(before) - before;
        // No token predicts the first kept token.
        let start = kept_own.start;
        let predicted = start + usize::from(kept_before.is_empty())..kept_own.end;
        let trained = |range: Range<usize>| own.trained.chosen(range).map(|part| part.len() as u32).sum::<u32>();
        let targets = trained(predicted.clone());
        let kept = if targets > 0 { kept.len() as u32 } else { 0 };
        let separately_tokenized_turns = own.separately_tokenized_turns;
        self.rows.push(Row { length: length as u32, kept, targets, separately_tokenized_turns, ..row });
        if targets == 0 {
            return;
        }
        let chosen = own.trained.chosen(predicted.clone()).map(|part| part.start - start..part.end - start);
        self.tokens.push_after(&history.input_ids[kept_before.clone()], &own.input_ids[kept_own.clone()], chosen);
        let Some(Row { kinds, .. }) = self.rows.last_mut() else { return };
        history.kinds.within(kept_before).for_each(|(part, kind)| kinds[kind as usize][0] += part.len() as u32);
        for (part, kind) in own.kinds.within(kept_own) {
            kinds[kind as usize][0] += part.len() as u32;
            kinds[kind as usize][1] += trained(part.start.max(predicted.start)..part.end);
        }
    }

    /// Removes the rows of conversations by their indices.
    pub(crate) fn remove(&mut self, repeated: &HashSet<usize>) {
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
