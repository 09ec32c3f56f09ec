//! The reasoning in an answer, `<think>…</think>`: finding, masking and dropping it.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::data::parse::conversation::{Conversation, Role};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::Turn;

pub(crate) const THINK: &str = "<think>";
pub(crate) const END_THINK: &str = "</think>";

/// What both tags end with.
const TAG_END: &str = "think>";

/// Looks for the tags with vector instructions, because every answer is searched.
static FIND_THINK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(THINK));
static FIND_END_THINK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(END_THINK));
static FIND_TAG_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(TAG_END));

fn has_think(text: &str) -> bool {
    FIND_THINK.find(text.as_bytes()).is_some()
}

fn has_end_think(text: &str) -> bool {
    FIND_END_THINK.find(text.as_bytes()).is_some()
}

/// What is before and after the first end of a think block.
pub(crate) fn split_at_end_think(text: &str) -> Option<(&str, &str)> {
    FIND_END_THINK.find(text.as_bytes()).map(|at| (&text[..at], &text[at + END_THINK.len()..]))
}

/// The offset of the think block that a template opens, or opens and closes, at the end of a prompt.
pub(crate) fn thinking_prompt(prompt: &str) -> Option<usize> {
    let trim_end = |text| jinja_methods::strip(text, None, false, true);
    let end = trim_end(prompt);
    let open = end.strip_suffix(END_THINK).map_or(end, trim_end);
    open.strip_suffix(THINK).map(str::len)
}

/// The length of an empty think block at the beginning of a text, with up to two newlines after it.
pub(crate) fn empty_thinking(text: &str) -> Option<usize> {
    let inner = jinja_methods::strip(text.strip_prefix(THINK)?, None, true, false);
    let rest = inner.strip_prefix(END_THINK)?;
    let newlines = rest.bytes().take(2).take_while(|byte| *byte == b'\n').count();
    Some(text.len() - rest.len() + newlines)
}

/// The length of a think block at the beginning of a text, with the white space around it. One that does not end is the whole text.
pub(crate) fn thinking_length(text: &str) -> Option<usize> {
    let inner = text.trim_start().strip_prefix(THINK)?;
    let rest = split_at_end_think(inner).map_or("", |(_, rest)| rest);
    Some(text.len() - rest.trim_start_matches('\n').len())
}

/// Excludes a turn's reasoning from training: the target starts after the think block, whether the turn or its prompt opened it.
pub(crate) fn mask_thinking(text: &str, turn: &mut Turn) {
    let target = &text[turn.target_start..turn.target_end];
    let opened = thinking_prompt(&text[..turn.target_start]).is_some_and(|at| !has_end_think(&text[at..turn.target_start]));
    if !opened && !target.trim_start().starts_with(THINK) {
        return;
    }
    if let Some((_, answer)) = split_at_end_think(target) {
        let answer = answer.trim_start_matches('\n');
        turn.target_start = turn.target_end - answer.len();
    }
}

/// Removes the reasoning from the assistant's messages.
pub(crate) fn drop_thinking(conversation: &mut Conversation) {
    for message in conversation.messages.iter_mut().filter(|message| message.role == Role::Assistant) {
        for name in crate::data::render::template::REASONING {
            message.fields.shift_remove(name);
        }
        if let Some(answer) = after_thinking(&message.content) {
            message.content = answer.trim_start_matches('\n').to_string();
        }
    }
}

/// The content after a leading thought. A thought without `<think>` is one whose prompt opens it. Tags in prose are no thoughts.
pub(crate) fn after_thinking(content: &str) -> Option<&str> {
    let (thought, answer) = split_at_end_think(content)?;
    let leading = thought.trim_start().starts_with(THINK) || !(has_think(content) || has_end_think(answer)) && thought.ends_with('\n');
    leading.then_some(answer)
}

/// Whether an answer has the tags of a thought somewhere else than around a leading one.
pub(crate) fn mentions_thinking(content: &str) -> bool {
    // Most answers have no tag, which one search finds.
    if FIND_TAG_END.find(content.as_bytes()).is_none() {
        return false;
    }
    let rest = after_thinking(content).unwrap_or(content);
    has_think(rest) || has_end_think(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_thought_is_one() {
        for (content, wanted) in [
            ("<think>\nhm\n</think>\n\nyes", Some("\n\nyes")),
            (" <think>a</think>b </think> c", Some("b </think> c")),
            ("hm\n</think>\n\nyes", Some("\n\nyes")),
            ("Write <think> before and </think> after.", None),
            ("the tag </think> ends it", None),
            ("yes", None),
        ] {
            assert_eq!(after_thinking(content), wanted, "{content}");
        }
        assert!(mentions_thinking("a </think> b") && !mentions_thinking("<think>a</think>b"));
    }
}
