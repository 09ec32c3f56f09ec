//! Renders conversations with minijinja: by running the template, or from the template cache.

use crate::data::parse::conversation::Conversation;
use crate::data::render::exchanges::by_exchanges;
use crate::data::render::long_conversations::{long, nested};
use crate::data::render::rendering::{Render, RenderError, RenderText, Rendering, Renderings, Turn};
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

    fn whole(&self, conversation: &Conversation) -> Option<String> {
        self.template.prepare(conversation).text(conversation.messages.len(), false, None).ok()
    }

    /// The text up to the end of a turn, as inference sees it.
    fn turn(&self, conversation: &Conversation, i: usize) -> Option<(String, Turn)> {
        self.turns.turn(conversation, &self.template.prepare(conversation), i).ok()
    }
}

impl Render for ChatRenderer {
    fn renderings(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        self.compact_renderings(conversation).map(Renderings::written_out)
    }

    fn compact_renderings(&self, conversation: &Conversation) -> Result<Renderings, RenderError> {
        let Some(cache) = &self.cache else { return self.render(conversation).map(Renderings::Apart) };
        let (whole, turn) = (|one: &Conversation| self.whole(one), |one: &Conversation, i: usize| self.turn(one, i));
        if cache.is_long_and_plain(conversation)
            && let Some(renderings) = long(conversation, whole, turn)
        {
            return Ok(Renderings::Apart(renderings));
        }
        if cache.is_long_with_reasoning(conversation)
            && let Some(nested) = nested(conversation, self.turns.end_tokens(), whole, turn)
        {
            return Ok(Renderings::Nested(nested));
        }
        if TemplateCache::is_long(conversation)
            && let Some(renderings) = by_exchanges(conversation, &self.template.prepare(conversation), &self.turns)
        {
            return Ok(renderings);
        }
        cache.renderings(conversation, |conversation| self.render(conversation)).map(Renderings::Apart)
    }
}
