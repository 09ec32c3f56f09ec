//! Which kind of turn each part of a rendered text belongs to: the table of `check`.
//!
//! A turn is everything that the template writes for it: its header, its content and the token that ends it. Descriptions of tools and a
//! template's own system prompt belong to the system turn, calls of tools to the answer.

use std::ops::Range;

use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::data::parse::conversation::{Conversation, Role, SampleKind};
use crate::data::render::rendering::{NestedRenderings, NestedRow, Rendering, Turn};
use crate::data::render::thinking::{thinking_length, thinking_prompt};

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

/// The part of a text up to the byte `end` that begins where the part before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KindSpan {
    pub end: usize,
    pub kind: TurnKind,
}

/// Tokens and trained tokens of each kind, in the order of [`TurnKind::ALL`].
pub(crate) type KindCounts = [[u32; 2]; KINDS];

/// The parts of a rendering. `end_tokens`: the special tokens, one of which ends a turn.
pub(crate) fn kind_spans(conversation: &Conversation, rendering: &Rendering, end_tokens: &[String]) -> Vec<KindSpan> {
    let text = rendering.text.as_str();
    if conversation.kind == SampleKind::PlainText {
        return vec![KindSpan { end: text.len(), kind: TurnKind::Text }];
    }
    let count = rendering.message.map_or(conversation.messages.len(), |last| last + 1);
    let form = rendering.turns.first().and_then(|turn| TurnForm::of(text, *turn, end_tokens));
    spans(conversation, rendering, count, form)
}

/// The parts of the history of nested renderings, and of what each of them adds.
pub(crate) fn nested_spans(conversation: &Conversation, nested: &NestedRenderings, end_tokens: &[String]) -> Vec<KindSpan> {
    let (Some(first), Some(last)) = (nested.rows.first(), nested.rows.last()) else { return Vec::new() };
    let history = Rendering { text: nested.history.clone(), turns: Vec::new(), message: None };
    spans(conversation, &history, last.first, TurnForm::of(&first.text, first.turn, end_tokens))
}

/// The parts of a row's own text: one answer with its header, or all turns of its exchange.
pub(crate) fn own_spans(conversation: &Conversation, row: &NestedRow, end_tokens: &[String]) -> Vec<KindSpan> {
    let (text, turn) = (row.text.as_str(), row.turn);
    if row.first < row.message {
        let messages = conversation.messages[row.first..=row.message].to_vec();
        let part = Conversation { messages, ..Conversation::default() };
        let rendering = Rendering { text: row.text.clone(), turns: vec![turn], message: Some(row.message - row.first) };
        return kind_spans(&part, &rendering, end_tokens);
    }
    let prompt = &text[..turn.prompt_end];
    let mut spans = Spans(Vec::new());
    spans.answer(text, 0, thinking_prompt(prompt).unwrap_or(prompt.len()), text.len());
    spans.0
}

fn spans(conversation: &Conversation, rendering: &Rendering, count: usize, form: Option<TurnForm<'_>>) -> Vec<KindSpan> {
    let text = rendering.text.as_str();
    let mut spans = Spans(Vec::new());
    let roles: Vec<Role> = conversation.messages[..count].iter().map(|message| message.role).collect();
    match form.and_then(|form| Some((by_end_tokens(text, &roles, form)?, form.header))) {
        Some((turns, header)) => {
            for (range, kind) in turns {
                if kind == TurnKind::Answer {
                    let header = if text[range.clone()].starts_with(header) { header.len() } else { 0 };
                    spans.answer(text, range.start, range.start + header, range.end);
                } else {
                    spans.push(range.end, kind);
                }
            }
        }
        None => by_contents(conversation, rendering, count, &mut spans),
    }
    spans.push(text.len(), TurnKind::Answer);
    spans.0
}

/// How a template writes an answer: the token that ends it, and its header.
#[derive(Clone, Copy)]
struct TurnForm<'t> {
    end_token: &'t str,
    header: &'t str,
}

impl<'t> TurnForm<'t> {
    /// From a turn in a text.
    fn of(text: &'t str, turn: Turn, end_tokens: &'t [String]) -> Option<TurnForm<'t>> {
        let ended = &text[..turn.target_end];
        let fits = |token: &&String| !token.is_empty() && ended.ends_with(token.as_str());
        let end_token = end_tokens.iter().filter(fits).max_by_key(|token| token.len())?.as_str();
        let before = &text[..turn.prompt_end];
        let prompt =
            memmem::rfind(before.as_bytes(), end_token.as_bytes()).map_or(before, |at| before[at + end_token.len()..].trim_start());
        Some(TurnForm { end_token, header: &prompt[..thinking_prompt(prompt).unwrap_or(prompt.len())] })
    }
}

struct Spans(Vec<KindSpan>);

impl Spans {
    fn push(&mut self, end: usize, kind: TurnKind) {
        let start = self.0.last().map_or(0, |span| span.end);
        match self.0.last_mut() {
            Some(last) if last.kind == kind => last.end = end.max(start),
            _ if end > start => self.0.push(KindSpan { end, kind }),
            _ => {}
        }
    }

    /// An assistant's turn from `start`, whose header ends at `header`.
    fn answer(&mut self, text: &str, start: usize, header: usize, end: usize) {
        self.push(header.max(start), TurnKind::Answer);
        if let Some(length) = thinking_length(&text[header..end]) {
            self.push(header + length, TurnKind::Thought);
        }
        self.push(end, TurnKind::Answer);
    }
}

/// The range of each turn of a template that ends all of them with the same token, such as ChatML's; `None` if the turns do not fit the
/// messages.
fn by_end_tokens(text: &str, roles: &[Role], form: TurnForm<'_>) -> Option<Vec<(Range<usize>, TurnKind)>> {
    let TurnForm { end_token, header } = form;
    let mut ends: Vec<usize> = Vec::new();
    for at in memmem::find_iter(text.as_bytes(), end_token) {
        let after = at + end_token.len();
        ends.push(after + (text[after..].len() - text[after..].trim_start().len()));
    }
    if ends.last().is_none_or(|last| *last < text.len()) {
        ends.push(text.len());
    }
    // Some templates write consecutive results of tools as one turn.
    let apart: Vec<TurnKind> = roles.iter().map(|role| TurnKind::of(*role)).collect();
    let mut joined = apart.clone();
    joined.dedup_by(|after, before| *after == TurnKind::Tool && *before == TurnKind::Tool);
    let own_system = [apart.as_slice(), &joined].map(|kinds| [&[TurnKind::System][..], kinds].concat());
    let mut start = 0;
    let turns: Vec<Range<usize>> = ends.into_iter().map(|end| std::mem::replace(&mut start, end)..end).collect();
    let fits = |kinds: &Vec<TurnKind>| {
        let is_answer = |turn: &Range<usize>| text[turn.clone()].starts_with(header);
        kinds.len() == turns.len() && turns.iter().zip(kinds).all(|(turn, kind)| is_answer(turn) == (*kind == TurnKind::Answer))
    };
    let kinds = [apart, joined].into_iter().chain(own_system).find(fits)?;
    Some(turns.into_iter().zip(kinds).collect())
}

/// Any other template: a turn ends after its content, and an answer is what is trained on.
fn by_contents(conversation: &Conversation, rendering: &Rendering, count: usize, spans: &mut Spans) {
    let (text, messages) = (rendering.text.as_str(), &conversation.messages[..count]);
    let is_answer = |i: usize| rendering.message.map_or(messages[i].role == Role::Assistant && messages[i].train, |own| own == i);
    let (mut done, mut next) = (0, 0);
    let mut others = |spans: &mut Spans, messages: Range<usize>, end: usize| {
        for message in &conversation.messages[messages] {
            let kind = TurnKind::of(message.role);
            if let Some(at) = text[done..end].find(message.content.trim()) {
                done += at + message.content.trim().len();
                spans.push(done, kind);
            } else if kind != TurnKind::Answer {
                spans.push(done, kind);
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
        let opened = thinking_prompt(prompt).unwrap_or(prompt.len()).max(spans.0.last().map_or(0, |span| span.end));
        spans.push(opened, last);
        spans.answer(text, opened, opened, turn.target_end);
        others(spans, 0..0, turn.target_end);
        next = message + 1;
    }
    others(spans, next..count, text.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::parse::conversation::ChatMessage;

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
        let spans = kind_spans(conversation, &rendering, &["</s>".to_string()]);
        let text = &rendering.text;
        spans.iter().map(|span| (span.kind, text[std::mem::replace(&mut start, span.end)..span.end].to_string())).collect()
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
