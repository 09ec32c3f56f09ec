//! Renders a long conversation with calls of tools, or other contents that the template tests, in linear time.
//!
//! An exchange is a user's message and what follows up to the next one. The template runs on the exchanges one by one, each after the
//! messages before the first. Their texts must be the template's rendering of the whole. What a turn sees is this text up to its exchange,
//! and the exchange as it is rendered with nothing behind the turn; for some turns of each form this is compared with the template's own
//! result. If anything differs there is no result, and the conversation is rendered turn by turn.

use std::collections::HashMap;
use std::ops::Range;

use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::render::rendering::{NestedRenderings, NestedRow, RenderText, Rendering, Renderings, Turn};
use crate::data::render::template::PreparedConversation;
use crate::data::render::thinking::THINK;
use crate::data::render::turns::TurnFinder;

/// The renderings of a conversation; `None` if it must be rendered in another way. `texts`: the conversation as the template sees it.
pub(crate) fn by_exchanges(conversation: &Conversation, texts: &PreparedConversation<'_>, finder: &TurnFinder) -> Option<Renderings> {
    let exchanges = Exchanges::of(conversation, texts, finder)?;
    let whole = texts.text(conversation.messages.len(), false, None).ok()?;
    let offsets = exchanges.offsets(&whole)?;
    let mut rows = Vec::new();
    for (range, shared) in exchanges.ranges().zip(offsets) {
        for i in range.clone().filter(|i| is_trained(&conversation.messages[*i])) {
            rows.push(exchanges.row(range.start, i, shared)?);
        }
    }
    let last = NestedRenderings { history: whole.clone(), rows };
    exchanges.compare(&last)?;
    let NestedRenderings { history: mut whole, rows } = last;
    if let Some(row) = rows.last()
        && row.text.len() > whole.len() - row.shared
        && row.text.starts_with(&whole[row.shared..])
    {
        // Includes the end-of-turn token, even if the template omits it at the end of the conversation.
        whole.replace_range(row.shared.., &row.text);
    }
    if rows.iter().all(|row| whole[row.shared..].starts_with(&row.text)) {
        let turns = rows.iter().map(NestedRow::turn_in_whole).collect();
        return Some(Renderings::Apart(vec![Rendering { text: whole, turns, message: None }]));
    }
    whole.truncate(rows.last()?.shared);
    Some(Renderings::Nested(NestedRenderings { history: whole, rows }))
}

fn is_trained(message: &ChatMessage) -> bool {
    message.role == Role::Assistant && message.train
}

/// A conversation of more than one exchange.
struct Exchanges<'a> {
    conversation: &'a Conversation,
    texts: &'a PreparedConversation<'a>,
    finder: &'a TurnFinder,
    /// The user's messages.
    starts: Vec<usize>,
    /// What the template writes before the first of them.
    lead: String,
}

impl<'a> Exchanges<'a> {
    fn of(conversation: &'a Conversation, texts: &'a PreparedConversation<'a>, finder: &'a TurnFinder) -> Option<Exchanges<'a>> {
        let messages = &conversation.messages;
        let starts: Vec<usize> = (0..messages.len()).filter(|i| messages[*i].role == Role::User).collect();
        let first = *starts.first().filter(|_| starts.len() > 1)?;
        if messages[..first].iter().any(|message| message.role != Role::System) {
            return None;
        }
        let mut exchanges = Exchanges { conversation, texts, finder, starts, lead: String::new() };
        let opening = exchanges.text(first..first + 1)?;
        let other = texts.probe(first, Role::User, None).ok()?;
        let common = opening.bytes().zip(other.bytes()).take_while(|(ours, theirs)| ours == theirs).count();
        let common = (0..=common).rev().find(|at| opening.is_char_boundary(*at))?;
        // The last special token before the content begins the user's turn.
        let begins = finder.end_tokens().iter().filter_map(|token| opening[..common].rfind(token.as_str())).max()?;
        exchanges.lead = opening[..begins].to_string();
        Some(exchanges)
    }

    /// The messages of each exchange.
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let ends = self.starts.iter().skip(1).copied().chain([self.conversation.messages.len()]);
        self.starts.iter().zip(ends).map(|(start, end)| *start..end)
    }

    /// The messages before the first exchange and these.
    fn window(&self, range: Range<usize>) -> (Conversation, PreparedConversation<'a>) {
        let Conversation { index, kind, messages, .. } = self.conversation;
        let first = self.starts[0];
        let messages = messages[..first].iter().chain(&messages[range.clone()]).cloned().collect();
        // Tools and variables are in the prepared form.
        let part = Conversation { index: *index, kind: *kind, messages, ..Conversation::default() };
        (part, self.texts.part((0..first).chain(range)))
    }

    fn text(&self, range: Range<usize>) -> Option<String> {
        let count = self.starts[0] + range.len();
        self.texts.part((0..self.starts[0]).chain(range)).text(count, false, None).ok()
    }

    /// Where each exchange begins in the rendering of the whole; `None` if they do not make it up.
    fn offsets(&self, whole: &str) -> Option<Vec<usize>> {
        let mut rest = whole.strip_prefix(self.lead.as_str())?;
        let mut offsets = Vec::with_capacity(self.starts.len());
        for range in self.ranges() {
            offsets.push(whole.len() - rest.len());
            let next = range.end;
            let own = if next == self.conversation.messages.len() {
                self.text(range)?
            } else {
                let followed = self.text(range.start..next + 1)?;
                let user = self.text(next..next + 1)?;
                followed.strip_suffix(user.strip_prefix(self.lead.as_str())?)?.to_string()
            };
            rest = rest.strip_prefix(own.strip_prefix(self.lead.as_str())?)?;
        }
        rest.is_empty().then_some(offsets)
    }

    /// The turn `i` of the exchange that begins with the message `start`.
    fn row(&self, start: usize, i: usize, shared: usize) -> Option<NestedRow> {
        let (part, texts) = self.window(start..i + 1);
        let (text, turn) = self.finder.turn(&part, &texts, part.messages.len() - 1).ok()?;
        let own = |position: usize| position.checked_sub(self.lead.len());
        let turn = Turn { prompt_end: own(turn.prompt_end)?, target_start: own(turn.target_start)?, target_end: own(turn.target_end)? };
        let text = text.strip_prefix(self.lead.as_str())?.to_string();
        Some(NestedRow { message: i, first: start, shared, text, turn })
    }

    /// Compares the first, the middle and the last turn of each form with the template's rendering of all messages up to it.
    fn compare(&self, nested: &NestedRenderings) -> Option<()> {
        let mut forms: HashMap<String, Vec<&NestedRow>> = HashMap::new();
        let last = self.starts[self.starts.len() - 1];
        for row in &nested.rows {
            let message = &self.conversation.messages[row.message];
            let before = self.conversation.messages[row.message - 1].role;
            let fields: Vec<&String> = message.fields.keys().collect();
            let content = (message.content.is_empty(), message.content.starts_with(THINK));
            forms
                .entry(format!("{before:?} {fields:?} {content:?} {} {}", row.first == last, (row.message - row.first).min(3)))
                .or_default()
                .push(row);
        }
        for alike in forms.values() {
            let mut chosen = vec![alike[0], alike[alike.len() / 2], alike[alike.len() - 1]];
            chosen.dedup_by_key(|row| row.message);
            for row in chosen {
                let (text, turn) = self.finder.turn(self.conversation, self.texts, row.message).ok()?;
                let ours = nested.written_out(row);
                if ours.text != text || ours.turns != [turn] {
                    return None;
                }
            }
        }
        Some(())
    }
}
