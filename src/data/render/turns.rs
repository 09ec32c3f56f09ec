//! Finds the positions of the assistant's turns in rendered text, with any implementation of [`RenderText`].
//!
//! A template may rewrite history (Qwen3 drops the reasoning of earlier turns). Then no single text shows every turn as inference sees
//! it, and the conversation is split into one text per trained turn. The prompt of each is the rendering of the messages before it,
//! followed by the header of an answer.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::base::error;
use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::{RenderError, RenderText, Rendering, Turn, place};
use crate::data::render::thinking::{THINK, empty_thinking, thinking_prompt};

/// Finds the turns in the renderings of one model's template.
#[derive(Debug)]
pub struct TurnFinder {
    end_tokens: Vec<String>,
    /// Warnings that were logged already.
    warned: Mutex<BTreeSet<String>>,
}

impl TurnFinder {
    /// `end_tokens`: the special tokens; one of them ends a turn.
    pub fn new(end_tokens: Vec<String>) -> TurnFinder {
        TurnFinder { end_tokens, warned: Mutex::default() }
    }

    pub(crate) fn end_tokens(&self) -> &[String] {
        &self.end_tokens
    }

    /// One rendering, or one for each trained turn if the template rewrites earlier messages. `texts` applies the template to
    /// `conversation`.
    ///
    /// # Errors
    /// Those of `texts`. Kind `input`: the conversation begins with an answer, and the template does not render it. Kind `model`: a turn
    /// is rendered differently from its own prompt.
    pub fn renderings(&self, conversation: &Conversation, texts: &impl RenderText) -> Result<Vec<Rendering>, RenderError> {
        let search = TurnSearch { finder: self, conversation, texts };
        let messages = &conversation.messages;
        let trained = |message: &ChatMessage| message.role == Role::Assistant && message.train;
        let mut whole = texts.text(messages.len(), false, None)?;
        let mut alone = Vec::new();
        for i in (0..messages.len()).filter(|i| trained(&messages[*i])) {
            let text = if i + 1 == messages.len() { whole.clone() } else { texts.text(i + 1, false, Some(i))? };
            alone.push((i, search.turn(i, text)?));
        }
        if let Some((_, (last, _))) = alone.last()
            && last.starts_with(&whole)
        {
            // Includes the end-of-turn token, even if the template omits it at the end of the conversation.
            whole.clone_from(last);
        }
        if alone.iter().all(|(_, (text, _))| whole.starts_with(text)) {
            let turns = alone.iter().map(|(_, (_, turn))| *turn).collect();
            return Ok(vec![Rendering { text: whole, turns, message: None }]);
        }
        Ok(alone.into_iter().map(|(i, (text, turn))| Rendering { text, turns: vec![turn], message: Some(i) }).collect())
    }

    /// The text up to the end of turn `i`, as at inference, and the turn's positions in it.
    ///
    /// # Errors
    /// Those of [`TurnFinder::renderings`].
    pub(crate) fn turn(&self, conversation: &Conversation, texts: &impl RenderText, i: usize) -> Result<(String, Turn), RenderError> {
        let text = texts.text(i + 1, false, Some(i))?;
        TurnSearch { finder: self, conversation, texts }.turn(i, text)
    }

    fn warn(&self, text: String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if !warned.contains(&text) {
            warning!("{text}");
            warned.insert(text);
        }
    }
}

/// The search for turns in one conversation.
struct TurnSearch<'a, T> {
    finder: &'a TurnFinder,
    conversation: &'a Conversation,
    texts: &'a T,
}

impl<T: RenderText> TurnSearch<'_, T> {
    fn place(&self, message: usize) -> String {
        place(self.conversation.index, Some(message))
    }

    /// Returns the text up to the end of turn `i`, as at inference, and the turn's positions in it. `text` is the rendering of the
    /// messages up to `i`.
    fn turn(&self, i: usize, mut text: String) -> Result<(String, Turn), RenderError> {
        let prompt = if i == 0 { self.opening(&text)? } else { self.texts.text(i, true, Some(i))? };
        let opened = thinking_prompt(&prompt).unwrap_or(prompt.len());
        if !text.starts_with(&prompt[..opened]) {
            // The turn changes the text before it (Qwen3, two answers in a row); inference sees the prompt.
            let answer = self.answer(i, &text, &prompt[..opened])?;
            text = format!("{}{answer}", &prompt[..opened]);
        }
        let start = if text.starts_with(&prompt) { prompt.len() } else { opened };
        if start < prompt.len() {
            self.finder
                .warn(format!("at inference prompts end with {:?}, but the template does not write that into turns", &prompt[opened..]));
        }
        let (text, target_end) = self.closed(i, text, start)?;
        let own = jinja_methods::strip(&self.conversation.messages[i].content, None, true, false).starts_with(THINK);
        let target_start = match empty_thinking(&text[opened..]) {
            Some(length) if !own => start.max(opened + length),
            _ => start,
        };
        // What the model must not learn to write belongs to the prompt, as when thinking is disabled at inference.
        Ok((text, Turn { prompt_end: start.max(target_start), target_start, target_end }))
    }

    /// The prompt of a conversation's first message: templates render no prompt without messages.
    fn opening(&self, text: &str) -> Result<String, RenderError> {
        let without = self.texts.text(1, false, Some(0))?;
        let with = self.texts.text(1, true, Some(0))?;
        let header = with.strip_prefix(&without).unwrap_or(&with);
        match text.find(header) {
            Some(at) => Ok(text[..at + header.len()].to_string()),
            None => Err(RenderError::Failed(error::input(format!(
                "conversation {}: the chat template does not render an answer here; begin with a user message",
                self.place(0)
            )))),
        }
    }

    /// The part of `text` after the header of answer `i`.
    fn answer<'t>(&self, i: usize, text: &'t str, prompt: &str) -> Result<&'t str, RenderError> {
        let before = self.texts.text(i, false, Some(i))?;
        let header = prompt.strip_prefix(&before).unwrap_or(prompt);
        let probe = self.texts.probe(i, Role::Assistant, Some(i))?;
        let at = probe.rfind(header).map(|at| at + header.len());
        match at {
            Some(at) if header != prompt && text.starts_with(&probe[..at]) => Ok(&text[at..]),
            _ => Err(RenderError::Failed(error::model(format!(
                "conversation {}: the chat template renders this turn differently from its own prompt, so no sample can match \
                 inference; use a template in which a prompt is the beginning of the conversation",
                self.place(i)
            )))),
        }
    }

    /// The text with its end-of-turn token, and the offset after that token.
    fn closed(&self, i: usize, mut text: String, start: usize) -> Result<(String, usize), RenderError> {
        let end_tokens = &self.finder.end_tokens;
        let stripped = jinja_methods::strip(&text, None, false, true).len();
        if stripped > start && end_tokens.iter().any(|token| text[..stripped].ends_with(token.as_str())) {
            return Ok((text, stripped));
        }
        // Qwen1.5's first template ends a turn only if another message follows.
        let after = self.texts.probe(i + 1, Role::User, Some(i))?;
        let after = after.strip_prefix(&text).unwrap_or(&after);
        match end_tokens.iter().find(|token| after.starts_with(token.as_str())) {
            Some(token) => text.push_str(token),
            None => {
                self.finder.warn("the chat template ends turns without a special token, so the model does not learn to end a turn".into());
            }
        }
        let end = text.len();
        Ok((text, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::render::rendering::PROBE;
    use crate::data::render::thinking::mask_thinking;

    /// A template as a function of the messages' roles and contents and whether a prompt is asked for.
    struct Template<'a, F>(&'a Conversation, F);

    impl<F: Fn(&[(Role, &str)], bool) -> String> RenderText for Template<'_, F> {
        fn text(&self, count: usize, prompt: bool, _: Option<usize>) -> Result<String, RenderError> {
            let shown: Vec<_> = self.0.messages[..count].iter().map(|message| (message.role, message.content.as_str())).collect();
            Ok(self.1(&shown, prompt))
        }

        fn probe(&self, count: usize, role: Role, _: Option<usize>) -> Result<String, RenderError> {
            let mut shown: Vec<_> = self.0.messages[..count].iter().map(|message| (message.role, message.content.as_str())).collect();
            shown.push((role, PROBE));
            Ok(self.1(&shown, false))
        }
    }

    /// Two questions and answers.
    fn two_turns() -> Conversation {
        let say = |role, content: &str| ChatMessage::new(role, content.into());
        let messages = vec![say(Role::User, "a"), say(Role::Assistant, "bé"), say(Role::User, "c"), say(Role::Assistant, "d")];
        Conversation { messages, ..Conversation::default() }
    }

    /// The texts, with `|` at the end of prompts, and targets in `[` and `]`.
    fn marked(renderings: &[Rendering]) -> Vec<String> {
        let marks = |one: &Rendering| {
            let mut text = one.text.clone();
            for turn in one.turns.iter().rev() {
                text.insert(turn.target_end, ']');
                text.insert(turn.target_start, '[');
                text.insert(turn.prompt_end, '|');
            }
            text
        };
        renderings.iter().map(marks).collect()
    }

    fn found(finder: &TurnFinder, template: impl Fn(&[(Role, &str)], bool) -> String) -> Vec<String> {
        let conversation = two_turns();
        marked(&finder.renderings(&conversation, &Template(&conversation, template)).unwrap())
    }

    /// `user:a.` for each message.
    fn plain(shown: &[(Role, &str)], prompt: bool) -> String {
        let said: String = shown.iter().map(|(role, content)| format!("{}:{content}.", role.as_str())).collect();
        said + if prompt { "assistant:" } else { "" }
    }

    #[test]
    fn turns_share_one_text_if_it_shows_every_prompt() {
        let finder = TurnFinder::new(vec![".".into()]);
        assert_eq!(found(&finder, plain), ["user:a.assistant:|[bé.]user:c.assistant:|[d.]"]);
        assert!(finder.warned.lock().unwrap().is_empty());
    }

    #[test]
    fn a_template_that_rewrites_earlier_turns_gives_one_text_per_turn() {
        let rewriting = |shown: &[(Role, &str)], prompt: bool| {
            let last = shown.len() - 1;
            let thinks = |i: usize, role: Role| i == last && role == Role::Assistant;
            let said = shown.iter().enumerate().map(|(i, (role, content))| {
                format!("{}:{}{content}.", role.as_str(), if thinks(i, *role) { "<think></think>" } else { "" })
            });
            said.collect::<String>() + if prompt { "assistant:" } else { "" }
        };
        let texts = found(&TurnFinder::new(vec![".".into()]), rewriting);
        assert_eq!(texts, ["user:a.assistant:<think></think>|[bé.]", "user:a.assistant:bé.user:c.assistant:<think></think>|[d.]"]);
    }

    #[test]
    fn an_end_of_turn_token_missing_at_the_end_is_added() {
        let open = |shown: &[(Role, &str)], prompt: bool| {
            let whole = plain(shown, prompt);
            if prompt { whole } else { whole.trim_end_matches('.').to_string() }
        };
        assert_eq!(found(&TurnFinder::new(vec![".".into()]), open), ["user:a.assistant:|[bé.]user:c.assistant:|[d.]"]);
    }

    #[test]
    fn each_warning_is_logged_once_per_template() {
        let finder = TurnFinder::new(vec!["<end>".into()]);
        for _ in 0..2 {
            assert_eq!(found(&finder, plain), ["user:a.assistant:|[bé.]user:c.assistant:|[d.]"]);
        }
        assert_eq!(finder.warned.lock().unwrap().len(), 1);
    }

    #[test]
    fn think_blocks_are_found() {
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
