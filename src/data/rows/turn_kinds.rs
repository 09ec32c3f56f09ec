//! Which kind of turn each part of a rendered text belongs to: the table of `check`.
//!
//! A turn is everything that the template writes for it: its header, its content and the token that ends it. Descriptions of tools and a
//! template's own system prompt belong to the system turn, calls of tools to the answer.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::data::parse::conversation::{ChatMessage, Conversation, Role, SampleKind};
use crate::data::render::rendering::{NestedRenderings, NestedRow, Rendering, Turn};
use crate::data::render::thinking::{thinking_length, thinking_prompt};
use crate::data::rows::spans::Spans;
use crate::data::tokenizer::{ControlToken, Tokenizer};

/// The kinds of turns. An assistant's turn has up to two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnKind {
    System,
    User,
    /// Results of tools.
    Tool,
    /// `<think>…</think>` at the beginning of an answer.
    Thought,
    Answer,
    /// Plain text without a chat template.
    Text,
}

/// Number of kinds.
pub(crate) const KINDS: usize = TurnKind::ALL.len();

impl TurnKind {
    pub const ALL: [TurnKind; 6] = [TurnKind::System, TurnKind::User, TurnKind::Tool, TurnKind::Thought, TurnKind::Answer, TurnKind::Text];

    pub fn as_str(self) -> &'static str {
        match self {
            TurnKind::System => "system",
            TurnKind::User => "user",
            TurnKind::Tool => "tool",
            TurnKind::Thought => "thought",
            TurnKind::Answer => "answer",
            TurnKind::Text => "text",
        }
    }

    fn of(role: Role) -> TurnKind {
        match role {
            Role::System => TurnKind::System,
            Role::User => TurnKind::User,
            Role::Tool => TurnKind::Tool,
            Role::Assistant => TurnKind::Answer,
        }
    }
}

/// Tokens and trained tokens of each kind, in the order of [`TurnKind::ALL`].
pub(crate) type KindCounts = [[u32; 2]; KINDS];

/// The parts of a rendering. `tokens`: the special tokens in its text, one of which ends a turn.
pub(crate) fn kind_spans(conversation: &Conversation, rendering: &Rendering, tokens: &[ControlToken]) -> Spans<TurnKind> {
    let text = rendering.text.as_str();
    if conversation.kind == SampleKind::PlainText {
        let mut whole = Spans::default();
        whole.extend_to(text.len(), TurnKind::Text);
        return whole;
    }
    let count = rendering.message.map_or(conversation.messages.len(), |last| last + 1);
    let form = rendering.turns.first().and_then(|turn| TurnForm::of(text, *turn, tokens));
    spans(conversation, rendering, count, tokens, form)
}

/// The parts of the history of nested renderings, and of what each of them adds.
pub(crate) fn nested_spans(conversation: &Conversation, nested: &NestedRenderings, tokenizer: &Tokenizer) -> Spans<TurnKind> {
    let (Some(first), Some(last)) = (nested.rows.first(), nested.rows.last()) else { return Spans::default() };
    let history = Rendering { text: nested.history.clone(), turns: Vec::new(), message: None };
    let [first_tokens, tokens] = [&first.text, &history.text].map(|text| tokenizer.control_tokens(text).collect::<Vec<_>>());
    spans(conversation, &history, last.first, &tokens, TurnForm::of(&first.text, first.turn, &first_tokens))
}

/// The parts of a row's own text: one answer with its header, or all turns of its exchange.
pub(crate) fn own_spans(conversation: &Conversation, row: &NestedRow, tokens: &[ControlToken]) -> Spans<TurnKind> {
    let (text, turn) = (row.text.as_str(), row.turn);
    if row.first < row.message {
        let messages = conversation.messages[row.first..=row.message].to_vec();
        let part = Conversation { messages, ..Conversation::default() };
        let rendering = Rendering { text: row.text.clone(), turns: vec![turn], message: Some(row.message - row.first) };
        return kind_spans(&part, &rendering, tokens);
    }
    let prompt = &text[..turn.prompt_end];
    let mut spans = Spans::default();
    add_answer(&mut spans, text, 0, thinking_prompt(prompt).unwrap_or(prompt.len()), text.len());
    spans
}

fn spans(
    conversation: &Conversation,
    rendering: &Rendering,
    count: usize,
    tokens: &[ControlToken],
    form: Option<TurnForm<'_>>,
) -> Spans<TurnKind> {
    let text = rendering.text.as_str();
    let mut spans = Spans::default();
    if !form.is_some_and(|form| by_end_tokens(text, &conversation.messages[..count], tokens, form, &mut spans)) {
        by_contents(conversation, rendering, count, &mut spans);
    }
    spans.extend_to(text.len(), TurnKind::Answer);
    spans
}

/// How a template writes an answer: the token that ends it, and its header.
#[derive(Clone, Copy)]
struct TurnForm<'t> {
    end_token: u32,
    header: &'t str,
}

impl<'t> TurnForm<'t> {
    /// From a turn in a text with these special tokens.
    fn of(text: &'t str, turn: Turn, tokens: &[ControlToken]) -> Option<TurnForm<'t>> {
        let end_token = tokens.iter().find(|token| token.spelled.end == turn.target_end)?.id;
        let before = tokens.iter().take_while(|token| token.spelled.end <= turn.prompt_end).filter(|token| token.id == end_token).last();
        let prompt = before.map_or(&text[..turn.prompt_end], |token| text[token.spelled.end..turn.prompt_end].trim_start());
        Some(TurnForm { end_token, header: &prompt[..thinking_prompt(prompt).unwrap_or(prompt.len())] })
    }
}

/// An assistant's turn from `start`, whose header ends at `header`.
fn add_answer(spans: &mut Spans<TurnKind>, text: &str, start: usize, header: usize, end: usize) {
    spans.extend_to(header.max(start), TurnKind::Answer);
    if let Some(length) = thinking_length(&text[header..end]) {
        spans.extend_to(header + length, TurnKind::Thought);
    }
    spans.extend_to(end, TurnKind::Answer);
}

/// The turns of a template that ends all of them with the same token, such as ChatML's; false if they do not fit the messages.
fn by_end_tokens(text: &str, messages: &[ChatMessage], tokens: &[ControlToken], form: TurnForm<'_>, spans: &mut Spans<TurnKind>) -> bool {
    let mut ends: Vec<usize> = Vec::with_capacity(messages.len() + 1);
    for token in tokens.iter().filter(|token| token.id == form.end_token) {
        ends.push(text.len() - text[token.spelled.end..].trim_start().len());
    }
    if ends.last().is_none_or(|last| *last < text.len()) {
        ends.push(text.len());
    }
    // Some templates write consecutive results of tools as one turn, and some a system prompt of their own.
    let ways = [(false, false), (true, false), (false, true), (true, true)];
    let Some((joined, own_system)) = ways.into_iter().find(|way| fit(text, &ends, kinds_written(messages, *way), form.header)) else {
        return false;
    };
    for (end, kind) in ends.into_iter().zip(kinds_written(messages, (joined, own_system))) {
        if kind == TurnKind::Answer {
            let start = spans.end();
            let header = if text[start..end].starts_with(form.header) { form.header.len() } else { 0 };
            add_answer(spans, text, start, start + header, end);
        } else {
            spans.extend_to(end, kind);
        }
    }
    true
}

/// The kinds of the turns that a template writes for messages, if it joins consecutive results of tools, or begins with a system prompt of
/// its own.
fn kinds_written(messages: &[ChatMessage], (joined, own_system): (bool, bool)) -> impl Iterator<Item = TurnKind> {
    let mut before = None;
    let written = messages.iter().map(|message| TurnKind::of(message.role)).filter(move |kind| {
        let before = before.replace(*kind);
        !(joined && *kind == TurnKind::Tool && before == Some(TurnKind::Tool))
    });
    own_system.then_some(TurnKind::System).into_iter().chain(written)
}

/// Whether there are as many turns as kinds, and those with the header of an answer are the answers.
fn fit(text: &str, ends: &[usize], mut kinds: impl Iterator<Item = TurnKind>, header: &str) -> bool {
    let mut start = 0;
    let all = ends.iter().all(|end| {
        let turn = &text[std::mem::replace(&mut start, *end)..*end];
        kinds.next().is_some_and(|kind| turn.starts_with(header) == (kind == TurnKind::Answer))
    });
    all && kinds.next().is_none()
}

/// Any other template: a turn ends after its content, and an answer is what is trained on.
fn by_contents(conversation: &Conversation, rendering: &Rendering, count: usize, spans: &mut Spans<TurnKind>) {
    let (text, messages) = (rendering.text.as_str(), &conversation.messages[..count]);
    let is_answer = |i: usize| rendering.message.map_or(messages[i].role == Role::Assistant && messages[i].train, |own| own == i);
    let (mut done, mut next) = (0, 0);
    let mut others = |spans: &mut Spans<TurnKind>, messages: Range<usize>, end: usize| {
        for message in &conversation.messages[messages] {
            let kind = TurnKind::of(message.role);
            if let Some(at) = text[done..end].find(message.content.trim()) {
                done += at + message.content.trim().len();
                spans.extend_to(done, kind);
            } else if kind != TurnKind::Answer {
                spans.extend_to(done, kind);
            }
        }
        done = end;
    };
    let mut trained = (0..count).filter(|i| is_answer(*i));
    for turn in &rendering.turns {
        let Some(message) = trained.next() else { break };
        others(spans, next..message, turn.prompt_end.min(turn.target_start));
        let last = messages[next..message].last().map_or(TurnKind::User, |message| TurnKind::of(message.role));
        let prompt = &text[..turn.prompt_end.min(turn.target_start)];
        let opened = thinking_prompt(prompt).unwrap_or(prompt.len()).max(spans.end());
        spans.extend_to(opened, last);
        add_answer(spans, text, opened, opened, turn.target_end);
        others(spans, 0..0, turn.target_end);
        next = message + 1;
    }
    others(spans, next..count, text.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(messages: &[(Role, &str)]) -> Conversation {
        let messages = messages.iter().map(|(role, content)| ChatMessage::new(*role, (*content).into())).collect();
        Conversation { messages, ..Conversation::default() }
    }

    /// The parts of a text in which `[` and `]` stand around each target and `|` after its prompt.
    fn parts(conversation: &Conversation, marked: &str) -> Vec<(TurnKind, String)> {
        let mut rendering = Rendering { text: String::new(), turns: Vec::new(), message: None };
        let mut turn = Turn { prompt_end: 0, target_start: 0, target_end: 0 };
        for c in marked.chars() {
            match c {
                '|' => turn.prompt_end = rendering.text.len(),
                '[' => turn.target_start = rendering.text.len(),
                ']' => rendering.turns.push(Turn { target_end: rendering.text.len(), ..turn }),
                c => rendering.text.push(c),
            }
        }
        let mut start = 0;
        let text = &rendering.text;
        let ends = text.match_indices("</s>").map(|(at, end)| at..at + end.len());
        let tokens: Vec<ControlToken> = ends.map(|place| ControlToken { id: 1, spelled: place.clone(), taken: place }).collect();
        let spans = kind_spans(conversation, &rendering, &tokens);
        spans.from(0).iter().map(|span| (span.kind, text[std::mem::replace(&mut start, span.end)..span.end].to_string())).collect()
    }

    #[test]
    fn turns_end_with_their_token_and_thoughts_are_apart() {
        use TurnKind::{Answer, System, Thought, Tool, User};
        let own = |kind, text: &str| (kind, text.to_string());
        let tools =
            conversation(&[(Role::User, "u"), (Role::Assistant, "c"), (Role::Tool, "s"), (Role::Tool, "t"), (Role::Assistant, "a")]);
        let marked = "<s>default</s>\n<u>u</s>\n<a>|[<think>\nx\n</think>\n\nc</s>]\n<t>s\nt</s>\n<a><think>\n\n</think>\n\n|[a</s>]\n";
        let wanted = [
            own(System, "<s>default</s>\n"),
            own(User, "<u>u</s>\n"),
            own(Answer, "<a>"),
            own(Thought, "<think>\nx\n</think>\n\n"),
            own(Answer, "c</s>\n"),
            own(Tool, "<t>s\nt</s>\n"),
            own(Answer, "<a>"),
            own(Thought, "<think>\n\n</think>\n\n"),
            own(Answer, "a</s>\n"),
        ];
        assert_eq!(parts(&tools, marked), wanted);
    }

    #[test]
    fn a_template_that_ends_answers_alone_is_cut_at_the_contents() {
        use TurnKind::{Answer, System, User};
        let both =
            conversation(&[(Role::System, "s"), (Role::User, "u"), (Role::Assistant, "a"), (Role::User, "v"), (Role::Assistant, "b")]);
        let made = parts(&both, "<I>s\n\nu</I>|[a</s>]<I>v</I>|[b</s>]");
        let own = |kind, text: &str| (kind, text.to_string());
        let wanted = [own(System, "<I>s"), own(User, "\n\nu</I>"), own(Answer, "a</s>"), own(User, "<I>v</I>"), own(Answer, "b</s>")];
        assert_eq!(made, wanted);
    }
}
