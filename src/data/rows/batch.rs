//! The samples of one batch of conversations, and what was noticed while they were made.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;

use crate::data::parse::conversation::{Conversation, Role};
use crate::data::parse::remarks::Remark;
use crate::data::read::problem::Problems;
use crate::data::render::rendering::Rendering;
use crate::data::rows::arrow::TokenRows;
use crate::data::rows::findings::Unseen;
use crate::data::rows::selection::RowOrigin;

/// One sample, without its tokens.
#[derive(Clone, Debug)]
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
    pub(crate) unseen: Vec<(Unseen, String)>,
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
    fn tell(&mut self, done: u64, total: u64) -> Result<()>;
}

/// A conversation as it was given to the renderer, and its renderings.
#[derive(Clone, Debug)]
pub struct RenderProbe {
    pub conversation: Conversation,
    pub renderings: Vec<Rendering>,
}

impl PreparedBatch {
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
