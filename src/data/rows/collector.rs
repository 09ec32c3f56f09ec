//! Counts the batches of a data set in order: statistics, duplicates, findings.

use std::collections::HashSet;

use anyhow::Result;

use crate::data::render::rendering::place;
use crate::data::rows::batch::{PreparedBatch, ReadConversation, RenderProbe, Sink};
use crate::data::rows::counts::Counts;
use crate::data::rows::findings::{Findings, TooLong};
use crate::data::rows::options::{Options, Overlong};
use crate::data::rows::text_checks;

/// Limit of the conversations kept for the comparison with transformers and tokenizers.
pub(crate) const PROBES: usize = 64;

/// Orders and counts the batches.
#[derive(Debug)]
pub(crate) struct Collector {
    options: Options,
    survey: bool,
    pub counts: Counts,
    seen: HashSet<u64>,
    pub findings: Findings,
    pub probes: [Vec<RenderProbe>; 2],
}

impl Collector {
    /// `survey`: whether faulty conversations are skipped.
    pub fn new(options: Options, survey: bool) -> Collector {
        Collector {
            options,
            survey,
            counts: Counts::default(),
            seen: HashSet::new(),
            findings: Findings::default(),
            probes: Default::default(),
        }
    }

    /// Counts a batch and passes its rows on. Batches come in the order of the data.
    pub fn take(&mut self, mut made: PreparedBatch, sink: &mut dyn Sink) -> Result<()> {
        self.findings.problems.append(std::mem::take(&mut made.problems));
        made.refused.drain(..).for_each(|refused| self.findings.refused.add(refused));
        made.unseen.drain(..).for_each(|(what, place)| self.findings.unseen[what as usize].add(place));
        made.answer_faults.drain(..).for_each(|(fault, place)| self.findings.answer_faults[fault as usize].add(place));
        made.beyond_embedding.drain(..).for_each(|beyond| self.findings.beyond_embedding.add(beyond));
        for (symbol, (count, first)) in std::mem::take(&mut made.unprinted) {
            text_checks::add(&mut self.findings.unprinted, symbol, count, || first);
        }
        self.findings.remarks.iter_mut().zip(made.remarks).for_each(|(all, more)| *all += more);
        self.findings.columns |= made.columns;
        self.findings.preferences += made.preferences;
        for (key, count) in std::mem::take(&mut made.ignored) {
            *self.findings.ignored.entry(key).or_default() += count;
        }
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
                let left_out = row.length > self.options.max_length;
                self.findings.too_long_dropped += u64::from(left_out);
                let cut = matches!(self.options.overlong, Overlong::TruncateLeft | Overlong::TruncateRight);
                if !left_out || cut {
                    self.findings.untrained.add(place(row.conversation, row.message));
                }
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
