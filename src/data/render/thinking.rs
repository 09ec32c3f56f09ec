//! The reasoning in an answer, `<think>…</think>`: finding, masking and dropping it.

use crate::data::parse::conversation::{Conversation, Role};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::Turn;

pub(crate) const THINK: &str = "<think>";
const END_THINK: &str = "</think>";

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

/// Excludes a turn's reasoning from training: the target starts after the think block, whether the turn or its prompt opened it.
pub(crate) fn mask_thinking(text: &str, turn: &mut Turn) {
    let target = &text[turn.target_start..turn.target_end];
    let opened = thinking_prompt(&text[..turn.target_start]).is_some_and(|at| !text[at..turn.target_start].contains(END_THINK));
    if !opened && !target.trim_start().starts_with(THINK) {
        return;
    }
    if let Some(at) = target.find(END_THINK) {
        let answer = target[at + END_THINK.len()..].trim_start_matches('\n');
        turn.target_start = turn.target_end - answer.len();
    }
}

/// Removes the reasoning from the assistant's messages.
pub(crate) fn drop_thinking(conversation: &mut Conversation) {
    for message in conversation.messages.iter_mut().filter(|message| message.role == Role::Assistant) {
        for name in crate::data::render::template::REASONING {
            message.fields.shift_remove(name);
        }
        if let Some((_, answer)) = message.content.rsplit_once(END_THINK) {
            message.content = answer.trim_start_matches('\n').to_string();
        }
    }
}
