//! Renders conversations with minijinja: by running the template, or from the template cache.

use crate::data::parse::conversation::Conversation;
use crate::data::render::rendering::{Render, RenderError, RenderText, Rendering};
use crate::data::render::template::ChatTemplate;
use crate::data::render::template_cache::TemplateCache;
use crate::data::render::turns::TurnFinder;

/// Renders with minijinja.
#[derive(Debug)]
pub struct ChatRenderer {
    template: ChatTemplate,
    turns: TurnFinder,
    /// Only for a template whose renderings are compared in our tests.
    cache: Option<TemplateCache>,
}

impl ChatRenderer {
    /// `end_tokens`: the special tokens; one of them ends a turn.
    pub fn new(template: ChatTemplate, end_tokens: Vec<String>) -> ChatRenderer {
        let cache = if template.compared { TemplateCache::new(template.source()) } else { None };
        ChatRenderer { template, turns: TurnFinder::new(end_tokens), cache }
    }

    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Runs the template.
    fn render(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        self.turns.renderings(conversation, &self.template.prepare(conversation))
    }
}

impl Render for ChatRenderer {
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        let long = self.cache.as_ref().and_then(|cache| {
            let whole = |conversation: &Conversation| self.template.prepare(conversation).text(conversation.messages.len(), false, None);
            let turn = |conversation: &Conversation, i: usize| self.turns.turn(conversation, &self.template.prepare(conversation), i);
            cache.long(conversation, whole, turn)
        });
        if let Some(renderings) = long {
            return Ok(renderings);
        }
        match &self.cache {
            Some(cache) => cache.renderings(conversation, |conversation| self.render(conversation)),
            None => self.render(conversation),
        }
    }
}
