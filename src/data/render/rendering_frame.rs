//! A rendering with gaps for the contents of messages: made from the rendering of placeholders, and filled with the contents of others.

use crate::data::parse::conversation::{ChatMessage, Conversation};
use crate::data::render::rendering::{Rendering, Turn};

/// Delimiters of the message's index in a placeholder: private use characters, which templates do not contain and `strip` keeps.
pub(super) const OPEN: char = '\u{E000}';
pub(super) const CLOSE: char = '\u{E001}';

/// A rendering without the contents of messages.
#[derive(Debug)]
pub(super) struct RenderingFrame {
    pub text: String,
    /// Gaps for contents, in order: offset in `text`, and index of the message.
    pub gaps: Vec<(usize, usize)>,
    pub turns: Vec<[Position; 3]>,
    pub message: Option<usize>,
}

/// A position in a rendering: an offset in a frame's text, and the number of gaps before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub offset: usize,
    pub gaps: usize,
}

/// The placeholder with a number.
pub(super) fn placeholder(number: usize) -> String {
    format!("{OPEN}{number}{CLOSE}")
}

/// The conversation with a placeholder for each content.
pub(super) fn with_placeholders(conversation: &Conversation) -> Conversation {
    let numbered = |(i, message): (usize, &ChatMessage)| ChatMessage { content: placeholder(i), ..message.clone() };
    Conversation { messages: conversation.messages.iter().enumerate().map(numbered).collect(), ..conversation.clone() }
}

impl RenderingFrame {
    pub(super) fn new(rendering: &Rendering) -> Option<RenderingFrame> {
        let shown = &rendering.text;
        let mut frame = RenderingFrame { text: String::new(), gaps: Vec::new(), turns: Vec::new(), message: rendering.message };
        // The span of each placeholder in the rendering's text.
        let mut placeholders = Vec::new();
        let mut done = 0;
        while let Some(open) = shown[done..].find(OPEN).map(|at| done + at) {
            let number = open + OPEN.len_utf8();
            let close = number + shown[number..].find(CLOSE)?;
            frame.text.push_str(&shown[done..open]);
            frame.gaps.push((frame.text.len(), shown[number..close].parse().ok()?));
            done = close + CLOSE.len_utf8();
            placeholders.push(open..done);
        }
        frame.text.push_str(&shown[done..]);
        // The total length of the placeholders before each.
        let mut before = vec![0];
        before.extend(placeholders.iter().scan(0, |sum, placeholder| {
            *sum += placeholder.len();
            Some(*sum)
        }));
        let position = |at: usize| {
            let gaps = placeholders.partition_point(|placeholder| placeholder.end <= at);
            // A position within a placeholder has no equivalent in other contents.
            let outside = placeholders.get(gaps).is_none_or(|next| at <= next.start);
            outside.then_some(Position { offset: at - before[gaps], gaps })
        };
        for turn in &rendering.turns {
            frame.turns.push([position(turn.prompt_end)?, position(turn.target_start)?, position(turn.target_end)?]);
        }
        Some(frame)
    }

    /// The text between two contents: that before the gap `i`, or after the last one.
    pub(super) fn before(&self, i: usize) -> &str {
        let start = i.checked_sub(1).map_or(0, |before| self.gaps[before].0);
        &self.text[start..self.gaps.get(i).map_or(self.text.len(), |(gap, _)| *gap)]
    }

    pub(super) fn filled(&self, messages: &[ChatMessage]) -> Rendering {
        // The total length of the contents before each gap.
        let mut before = Vec::with_capacity(self.gaps.len() + 1);
        before.push(0);
        before.extend(self.gaps.iter().scan(0, |sum, (_, message)| {
            *sum += messages[*message].content.len();
            Some(*sum)
        }));
        let mut text = String::with_capacity(self.text.len() + before[self.gaps.len()]);
        let mut done = 0;
        for (gap, message) in &self.gaps {
            text.push_str(&self.text[done..*gap]);
            text.push_str(&messages[*message].content);
            done = *gap;
        }
        text.push_str(&self.text[done..]);
        let at = |position: Position| position.offset + before[position.gaps];
        let turn =
            |[prompt_end, start, end]: &[Position; 3]| Turn { prompt_end: at(*prompt_end), target_start: at(*start), target_end: at(*end) };
        Rendering { text, turns: self.turns.iter().map(turn).collect(), message: self.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::parse::conversation::Role;

    #[test]
    fn contents_fill_the_gaps_and_positions_shift() {
        let rendering = |a: &str, b: &str| {
            let text = format!("<u>{a}</u><a>{b}</a>");
            let (start, end) = (10 + a.len(), 14 + a.len() + b.len());
            Rendering { text, turns: vec![Turn { prompt_end: start, target_start: start, target_end: end }], message: Some(1) }
        };
        let frame = RenderingFrame::new(&rendering("\u{E000}0\u{E001}", "\u{E000}1\u{E001}")).unwrap();
        let messages = [ChatMessage::new(Role::User, "hello".into()), ChatMessage::new(Role::Assistant, "é".into())];
        assert_eq!(frame.filled(&messages), rendering("hello", "é"));
        let mut within = rendering("\u{E000}0\u{E001}", "x");
        within.turns[0].prompt_end = 5;
        assert!(RenderingFrame::new(&within).is_none());
    }
}
