//! Renders one long conversation of plain messages in linear time, with few runs of the template.
//!
//! The template runs with placeholders for the contents (`template_cache.rs` says why that is enough). What it writes before and after an
//! answer has few forms in one conversation. Some turns of each form are found exactly, and the positions in the others follow from the
//! text around them. If the exact turns differ in anything else, there is no result, and the conversation is rendered turn by turn.

use std::collections::HashMap;

use serde_json::Value;

use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::render::rendering::{NestedRenderings, NestedRow, Rendering, Turn};
use crate::data::render::rendering_frame::{Position, RenderingFrame, placeholder, with_placeholders};
use crate::data::render::template::REASONING;
use crate::data::render::thinking::{THINK, split_at_end_think};

/// The rendering of a conversation whose whole shows every turn as inference sees it; `None` if it must be rendered in another way. `turn`
/// finds one turn as inference sees it, and `whole` renders a conversation.
pub(crate) fn long(
    conversation: &Conversation,
    whole: impl Fn(&Conversation) -> Option<String>,
    turn: impl Fn(&Conversation, usize) -> Option<(String, Turn)>,
) -> Option<Vec<Rendering>> {
    let numbered = with_placeholders(conversation);
    let text = whole(&numbered)?;
    let frame = RenderingFrame::new(&Rendering { text: text.clone(), turns: Vec::new(), message: None })?;
    // Every content must be there once, in order.
    if !frame.gaps.iter().map(|(_, message)| *message).eq(0..conversation.messages.len()) {
        return None;
    }
    let trained = |message: &ChatMessage| message.role == Role::Assistant && message.train;
    let mut forms: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for i in (0..conversation.messages.len()).filter(|i| trained(&conversation.messages[*i])) {
        forms.entry((frame.before(i), frame.before(i + 1))).or_default().push(i);
    }
    let last = conversation.messages.len() - 1;
    let mut turns: Vec<(usize, [Position; 3])> = Vec::new();
    let mut end = None;
    for (form, messages) in &forms {
        let (first, final_one) = (*messages.first()?, *messages.last()?);
        let exact = |i: usize| {
            let (alone, turn) = turn(&numbered, i)?;
            // The whole has the turn as inference sees it; at its end the template may omit the token that ends the turn.
            let extends = i == last && alone.starts_with(&text);
            let one = RenderingFrame::new(&Rendering { text: alone.clone(), turns: vec![turn], message: None })?;
            (extends || text.starts_with(&alone)).then(|| (one.turns[0], extends.then(|| one.text.clone())))
        };
        let (at_first, _) = exact(first)?;
        let (at_last, extended) = exact(final_one)?;
        end = end.or(extended);
        // Relative to the content of the answer, in front of which the form begins.
        let start = |i: usize| frame.gaps[i].0 - form.0.len();
        let relative = |i: usize, positions: [Position; 3]| {
            positions.map(|position| (position.offset.checked_sub(start(i)), position.gaps.checked_sub(i)))
        };
        let shape = relative(first, at_first);
        if shape != relative(final_one, at_last) || shape.iter().any(|(offset, gaps)| offset.is_none() || gaps.is_none()) {
            return None;
        }
        let place = |i: usize| shape.map(|(offset, gaps)| Position { offset: start(i) + offset.unwrap_or(0), gaps: i + gaps.unwrap_or(0) });
        turns.extend(messages.iter().map(|i| (*i, place(*i))));
    }
    turns.sort_by_key(|(i, _)| *i);
    let turns = turns.into_iter().map(|(_, positions)| positions).collect();
    let frame = RenderingFrame { text: end.unwrap_or_else(|| frame.text.clone()), gaps: frame.gaps.clone(), turns, message: None };
    Some(vec![frame.filled(&conversation.messages)])
}

/// An assistant's content with its reasoning apart, and what is written around both.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SplitContent<'a> {
    /// Before and after the reasoning; both empty if it has a field of its own.
    around: [&'a str; 2],
    pub reasoning: Option<&'a str>,
    pub answer: &'a str,
}

impl<'a> SplitContent<'a> {
    pub(super) fn of(message: &'a ChatMessage) -> SplitContent<'a> {
        let content = message.content.as_str();
        let whole = SplitContent { answer: content, ..SplitContent::default() };
        if message.role != Role::Assistant {
            return whole;
        }
        if let Some(Value::String(reasoning)) = message.fields.get(REASONING[0]) {
            return SplitContent { reasoning: Some(reasoning), ..whole };
        }
        let Some((thought, after)) = content.strip_prefix(THINK).and_then(split_at_end_think) else { return whole };
        let answer = after.trim_start_matches('\n');
        let (reasoning, before_answer) = (thought.trim_matches('\n'), content.len() - answer.len());
        if reasoning.is_empty() {
            return SplitContent { around: [&content[..before_answer], ""], answer, ..whole };
        }
        let start = THINK.len() + thought.len() - thought.trim_start_matches('\n').len();
        let around = [&content[..start], &content[start + reasoning.len()..before_answer]];
        SplitContent { around, reasoning: Some(reasoning), answer }
    }

    /// The message with placeholders for reasoning and answer.
    fn with_placeholders(self, message: &ChatMessage, answer: usize, reasoning: usize) -> ChatMessage {
        let mut numbered = ChatMessage { content: placeholder(answer), ..message.clone() };
        match self.reasoning {
            Some(_) if self.around[0].is_empty() => {
                numbered.fields.insert(REASONING[0].into(), placeholder(reasoning).into());
            }
            Some(_) => numbered.content = [self.around[0], &placeholder(reasoning), self.around[1], &placeholder(answer)].concat(),
            None => numbered.content.insert_str(0, self.around[0]),
        }
        numbered
    }
}

/// What a trained turn adds to the history, with gaps for its reasoning and its answer.
#[derive(Debug, PartialEq, Eq)]
struct OwnTurn {
    text: String,
    /// Offset of each gap, and whether it is for the reasoning.
    gaps: Vec<(usize, bool)>,
    /// As [`Turn`]: offset in `text`, and number of gaps before it.
    positions: [Position; 3],
}

/// The renderings of a conversation whose earlier turns the template writes in another way than the last, such as Qwen3's without
/// reasoning; `None` if it must be rendered in another way. `control`: the special tokens. The other arguments are those of [`long`].
///
/// Every trained answer must follow a user's message: then it sees all earlier answers as history, the same that later turns see.
pub(crate) fn nested(
    conversation: &Conversation,
    control: &[String],
    whole: impl Fn(&Conversation) -> Option<String>,
    turn: impl Fn(&Conversation, usize) -> Option<(String, Turn)>,
) -> Option<NestedRenderings> {
    let messages = &conversation.messages;
    let count = messages.len();
    let trained: Vec<usize> = (0..count).filter(|i| messages[*i].role == Role::Assistant && messages[*i].train).collect();
    if !trained.iter().all(|i| i.checked_sub(1).is_some_and(|before| messages[before].role == Role::User)) {
        return None;
    }
    let contents: Vec<SplitContent<'_>> = messages.iter().map(SplitContent::of).collect();
    let numbered =
        messages.iter().zip(&contents).enumerate().map(|(i, (message, content))| content.with_placeholders(message, i, count + i));
    let numbered = Conversation { messages: numbered.collect(), ..conversation.clone() };
    let frame = RenderingFrame::new(&Rendering { text: whole(&numbered)?, turns: Vec::new(), message: None })?;
    // Every answer must be there once, in order, and reasoning in the last turn alone.
    let gaps: Vec<usize> = frame.gaps.iter().filter(|(_, slot)| *slot < count).map(|(offset, _)| *offset).collect();
    let order = frame.gaps.iter().map(|(_, slot)| *slot).filter(|slot| *slot < count);
    if !order.eq(0..count) || frame.gaps.iter().any(|(_, slot)| *slot >= count && *slot != 2 * count - 1) {
        return None;
    }
    let between = |i: usize| &frame.text[gaps[i - 1]..gaps.get(i).copied().unwrap_or(frame.text.len())];
    let mut forms: HashMap<(&str, &str, [&str; 2], bool), Vec<usize>> = HashMap::new();
    for i in &trained {
        let content = &contents[*i];
        forms.entry((between(*i), between(*i + 1), content.around, content.reasoning.is_some())).or_default().push(*i);
    }
    let mut rows = Vec::with_capacity(trained.len());
    // The total length of the answers before each message.
    let mut before = vec![0];
    before.extend(contents.iter().scan(0, |sum, content| {
        *sum += content.answer.len();
        Some(*sum)
    }));
    for ((header, ..), alike) in &forms {
        let (token, at) = control.iter().filter_map(|token| Some((token, header.rfind(token.as_str())?))).max_by_key(|(_, at)| *at)?;
        let start = |i: usize| gaps[i - 1] + at;
        let exact = |i: usize| own_turn(&frame.text, &gaps[..i], turn(&numbered, i)?, start(i), count);
        let own = exact(*alike.first()?)?;
        let others = [alike[alike.len() / 2], *alike.last()?];
        if !own.text.starts_with(token.as_str()) || others.iter().any(|i| exact(*i).as_ref() != Some(&own)) {
            return None;
        }
        rows.extend(alike.iter().map(|i| own.filled(*i, start(*i) + before[*i], contents[*i])));
    }
    rows.sort_by_key(|row: &NestedRow| row.message);
    let length = rows.last()?.shared;
    let mut history = String::with_capacity(length);
    let mut done = 0;
    for (gap, content) in gaps.iter().zip(&contents) {
        history.push_str(&frame.text[done..*gap]);
        history.push_str(content.answer);
        done = *gap;
        if history.len() >= length {
            break;
        }
    }
    history.push_str(&frame.text[done..]);
    history.truncate(length);
    Some(NestedRenderings { history, rows })
}

/// The part from `start` of the text that a turn sees; `None` if the text before is not that of the history. `gaps`: those of the history
/// before the turn.
fn own_turn(history: &str, gaps: &[usize], (text, turn): (String, Turn), start: usize, count: usize) -> Option<OwnTurn> {
    let one = RenderingFrame::new(&Rendering { text, turns: vec![turn], message: None })?;
    let i = gaps.len();
    let earlier = one.gaps.get(..i)?.iter().copied().eq(gaps.iter().copied().zip(0..));
    let same = earlier && one.text.get(..start)? == history.get(..start)?;
    let own = one.gaps[i..].iter().map(|(offset, slot)| {
        let known = *slot == i || *slot == count + i;
        known.then_some(())?;
        Some((offset.checked_sub(start)?, *slot == count + i))
    });
    let own: Vec<(usize, bool)> = own.collect::<Option<_>>()?;
    let answers = own.iter().filter(|(_, reasoning)| !reasoning).count();
    let relative = |position: Position| Some(Position { offset: position.offset.checked_sub(start)?, gaps: position.gaps.checked_sub(i)? });
    let [prompt_end, target_start, target_end] = one.turns[0];
    let positions = [relative(prompt_end)?, relative(target_start)?, relative(target_end)?];
    (same && answers == 1 && own.len() <= 2).then(|| OwnTurn { text: one.text[start..].into(), gaps: own, positions })
}

impl OwnTurn {
    fn filled(&self, message: usize, shared: usize, content: SplitContent<'_>) -> NestedRow {
        let fillings =
            self.gaps.iter().map(|(_, reasoning)| if *reasoning { content.reasoning.unwrap_or_default() } else { content.answer });
        let fillings: Vec<&str> = fillings.collect();
        let mut text = String::new();
        let mut done = 0;
        for ((gap, _), filling) in self.gaps.iter().zip(&fillings) {
            text.push_str(&self.text[done..*gap]);
            text.push_str(filling);
            done = *gap;
        }
        text.push_str(&self.text[done..]);
        let at = |position: Position| position.offset + fillings[..position.gaps].iter().map(|filling| filling.len()).sum::<usize>();
        let [prompt_end, target_start, target_end] = self.positions.map(at);
        NestedRow { message, first: message, shared, text, turn: Turn { prompt_end, target_start, target_end } }
    }
}
