//! The reasoning in an answer, `<think>…</think>`: found, masked, dropped.

use crate::data::parse::conversation::{Conversation, Role};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::Turn;

pub(crate) const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

/// Where the thought begins that a thinking template opens, or opens and closes, at a prompt's end.
pub(crate) fn thinking_prompt(prompt: &str) -> Option<usize> {
    let trim_end = |text| jinja_methods::strip(text, None, false, true);
    let end = trim_end(prompt);
    let open = end.strip_suffix(THOUGHT).map_or(end, trim_end);
    open.strip_suffix(THINK).map(str::len)
}

/// The length of an empty thought at the beginning of a text, with up to two newlines behind it.
pub(crate) fn empty_thinking(text: &str) -> Option<usize> {
    let inner = jinja_methods::strip(text.strip_prefix(THINK)?, None, true, false);
    let rest = inner.strip_prefix(THOUGHT)?;
    let newlines = rest.bytes().take(2).take_while(|byte| *byte == b'\n').count();
    Some(text.len() - rest.len() + newlines)
}

/// Leaves a turn's thought out of what is trained on: from its beginning, or from the prompt that opened it, to the words behind it.
pub(crate) fn mask_thinking(text: &str, turn: &mut Turn) {
    let target = &text[turn.target_start..turn.target_end];
    let opened = thinking_prompt(&text[..turn.target_start]).is_some_and(|at| !text[at..turn.target_start].contains(THOUGHT));
    if !opened && !target.trim_start().starts_with(THINK) {
        return;
    }
    if let Some(at) = target.find(THOUGHT) {
        let words = target[at + THOUGHT.len()..].trim_start_matches('\n');
        turn.target_start = turn.target_end - words.len();
    }
}

/// Takes the thoughts out of the assistant's messages.
pub(crate) fn drop_thinking(conversation: &mut Conversation) {
    for message in conversation.messages.iter_mut().filter(|message| message.role == Role::Assistant) {
        for name in crate::data::render::template::REASONING {
            message.fields.shift_remove(name);
        }
        if let Some((_, words)) = message.content.rsplit_once(THOUGHT) {
            message.content = words.trim_start_matches('\n').to_string();
        }
    }
}
