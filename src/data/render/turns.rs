//! From a conversation to texts with the places of the assistant's turns in them.
//!
//! A template may rewrite history (Qwen3 drops the thinking of earlier turns). Then no single text shows every turn as inference
//! sees it, and the conversation becomes one text for each trained turn, its prompt being what the template renders of the messages
//! before it with the opening of an answer.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use serde_json::Map;

use crate::base::error;
use crate::data::parse::conversation::{Conversation, Message, Role};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::{Render, RenderError, Rendering, Turn, place};
use crate::data::render::template::{ChatTemplate, Failure, Prepared};
use crate::data::render::template_cache::Skeletons;
use crate::data::render::thinking::{THINK, empty_thinking, thinking_prompt};

/// Renders by minijinja.
#[derive(Debug)]
pub struct ChatRenderer {
    template: ChatTemplate,
    end_tokens: Vec<String>,
    /// For a template whose renderings are compared in our tests.
    skeletons: Option<Skeletons>,
    warned: Mutex<BTreeSet<String>>,
}

impl ChatRenderer {
    /// `end_tokens`: the special tokens, one of which closes a turn.
    pub fn new(template: ChatTemplate, end_tokens: Vec<String>) -> ChatRenderer {
        let skeletons = if template.compared { Skeletons::new(template.source()) } else { None };
        ChatRenderer { template, end_tokens, skeletons, warned: Mutex::default() }
    }

    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    fn warn(&self, text: String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if !warned.contains(&text) {
            warning!("{text}");
            warned.insert(text);
        }
    }
}

impl Render for ChatRenderer {
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        match &self.skeletons {
            Some(skeletons) => skeletons.renderings(conversation, |conversation| self.directly(conversation)),
            None => self.directly(conversation),
        }
    }
}

impl ChatRenderer {
    /// By the template itself.
    fn directly(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        let story = Story { renderer: self, conversation, prepared: self.template.prepare(conversation) };
        let messages = &conversation.messages;
        let trained = |message: &Message| message.role == Role::Assistant && message.train;
        let mut whole = story.render(messages.len(), false, None)?;
        let mut alone = Vec::new();
        for i in (0..messages.len()).filter(|i| trained(&messages[*i])) {
            let text = if i + 1 == messages.len() { whole.clone() } else { story.render(i + 1, false, Some(i))? };
            alone.push((i, story.turn(i, text)?));
        }
        if let Some((_, (last, _))) = alone.last()
            && last.starts_with(&whole)
        {
            // With the end-of-turn token that the template left out at the very end.
            whole.clone_from(last);
        }
        if alone.iter().all(|(_, (text, _))| whole.starts_with(text)) {
            let turns = alone.iter().map(|(_, (_, turn))| *turn).collect();
            return Ok(vec![Rendering { text: whole, turns, message: None }]);
        }
        Ok(alone.into_iter().map(|(i, (text, turn))| Rendering { text, turns: vec![turn], message: Some(i) }).collect())
    }
}

/// One conversation on its way.
struct Story<'a> {
    renderer: &'a ChatRenderer,
    conversation: &'a Conversation,
    prepared: Prepared<'a>,
}

impl Story<'_> {
    fn place(&self, message: Option<usize>) -> String {
        place(self.conversation.index, message)
    }

    fn failed(&self, failure: Failure, message: Option<usize>) -> RenderError {
        match failure {
            Failure::Unsupported(why) => RenderError::Unsupported(why),
            // Of an unknown template, transformers is to say so.
            Failure::Refused(why) if !self.renderer.template.compared => {
                RenderError::Unsupported(format!("it refuses conversation {}: {why}", self.place(message)))
            }
            Failure::Refused(why) => RenderError::Failed(error::input(format!(
                "conversation {}: the model's chat template refuses it: {why}; change it or leave it out",
                self.place(message)
            ))),
        }
    }

    /// The template's text of the first `count` messages.
    fn render(&self, count: usize, prompt: bool, message: Option<usize>) -> Result<String, RenderError> {
        self.prepared.render(count, prompt).map_err(|failure| self.failed(failure, message))
    }

    /// From `text`, that of the messages up to `i`: the text up to the end of the turn, as inference would have made it, and the
    /// turn's places in it.
    fn turn(&self, i: usize, mut text: String) -> Result<(String, Turn), RenderError> {
        let prompt = if i == 0 { self.opening(&text)? } else { self.render(i, true, Some(i))? };
        let opened = thinking_prompt(&prompt).unwrap_or(prompt.len());
        if !text.starts_with(&prompt[..opened]) {
            // The turn's presence changes what stands before it (Qwen3, two answers in a row); inference has the prompt.
            let answer = self.answer(i, &text, &prompt[..opened])?;
            text = format!("{}{answer}", &prompt[..opened]);
        }
        let start = if text.starts_with(&prompt) { prompt.len() } else { opened };
        if start < prompt.len() {
            self.renderer
                .warn(format!("prompts end in {:?} at inference, which the template does not write into turns", &prompt[opened..]));
        }
        let (text, target_end) = self.closed(i, text, start)?;
        let own = jinja_methods::strip(&self.conversation.messages[i].content, None, true, false).starts_with(THINK);
        let target_start = match empty_thinking(&text[opened..]) {
            Some(length) if !own => start.max(opened + length),
            _ => start,
        };
        Ok((text, Turn { prompt_end: start, target_start, target_end }))
    }

    /// The prompt of a conversation's very first message: templates render no prompt from nothing.
    fn opening(&self, text: &str) -> Result<String, RenderError> {
        let without = self.render(1, false, Some(0))?;
        let with = self.render(1, true, Some(0))?;
        let header = with.strip_prefix(&without).unwrap_or(&with);
        match text.find(header) {
            Some(at) => Ok(text[..at + header.len()].to_string()),
            None => Err(RenderError::Failed(error::input(format!(
                "conversation {}: the template shows no answer here; begin with a user's message",
                self.place(Some(0))
            )))),
        }
    }

    /// What message `i` adds to `text` behind the words that open an answer.
    fn answer<'t>(&self, i: usize, text: &'t str, prompt: &str) -> Result<&'t str, RenderError> {
        let before = self.render(i, false, Some(i))?;
        let header = prompt.strip_prefix(&before).unwrap_or(prompt);
        let probe = self.probe(i, Role::Assistant)?;
        let at = probe.rfind(header).map(|at| at + header.len());
        match at {
            Some(at) if header != prompt && text.starts_with(&probe[..at]) => Ok(&text[at..]),
            _ => Err(RenderError::Failed(error::model(format!(
                "conversation {}: the chat template writes this turn in another way than its own prompt, so no sample can show what \
                 inference sees; use a template whose prompts are the beginnings of conversations",
                self.place(Some(i))
            )))),
        }
    }

    /// The text with its end-of-turn token, and the offset behind that token.
    fn closed(&self, i: usize, mut text: String, start: usize) -> Result<(String, usize), RenderError> {
        let end_tokens = &self.renderer.end_tokens;
        let stripped = jinja_methods::strip(&text, None, false, true).len();
        if stripped > start && end_tokens.iter().any(|token| text[..stripped].ends_with(token.as_str())) {
            return Ok((text, stripped));
        }
        // Qwen1.5's first template closes a turn only when another one follows.
        let after = self.probe(i + 1, Role::User)?;
        let after = after.strip_prefix(&text).unwrap_or(&after);
        match end_tokens.iter().find(|token| after.starts_with(token.as_str())) {
            Some(token) => text.push_str(token),
            None => self.renderer.warn("the chat template ends turns without a special token; the model learns no end of a turn".into()),
        }
        let end = text.len();
        Ok((text, end))
    }

    /// The first `count` messages and one more, which says "x".
    fn probe(&self, count: usize, role: Role) -> Result<String, RenderError> {
        let message = Message { role, content: "x".into(), train: true, fields: Map::new() };
        self.prepared.render_with(count, &message).map_err(|failure| self.failed(failure, count.checked_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::render::thinking::mask_thinking;

    #[test]
    fn thoughts_are_found() {
        assert_eq!(thinking_prompt("a<think>\n"), Some(1));
        assert_eq!(thinking_prompt("a<think>\n\n</think>\n\n"), Some(1));
        assert_eq!(thinking_prompt("a<think>b</think>"), None);
        assert_eq!(empty_thinking("<think>\n\n</think>\n\n\nx"), Some(19));
        assert_eq!(empty_thinking("<think>a</think>"), None);
        let text = "u<think>\nhm\n</think>\n\ny<|im_end|>";
        for (start, wanted) in [(1, "y<|im_end|>"), (9, "y<|im_end|>"), (22, "y<|im_end|>")] {
            let mut turn = Turn { prompt_end: start, target_start: start, target_end: text.len() };
            mask_thinking(text, &mut turn);
            assert_eq!(&text[turn.target_start..], wanted);
        }
    }
}
