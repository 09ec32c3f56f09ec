//! Renders conversations by minijinja: each by the template itself, or filled into what the template left for another of its kind.

use crate::data::parse::conversation::Conversation;
use crate::data::render::rendering::{Render, RenderError, Rendering};
use crate::data::render::template::ChatTemplate;
use crate::data::render::template_cache::Skeletons;
use crate::data::render::turns::TurnFinder;

/// Renders by minijinja.
#[derive(Debug)]
pub struct ChatRenderer {
    template: ChatTemplate,
    turns: TurnFinder,
    /// For a template whose renderings are compared in our tests.
    skeletons: Option<Skeletons>,
}

impl ChatRenderer {
    /// `end_tokens`: the special tokens, one of which closes a turn.
    pub fn new(template: ChatTemplate, end_tokens: Vec<String>) -> ChatRenderer {
        let skeletons = if template.compared { Skeletons::new(template.source()) } else { None };
        ChatRenderer { template, turns: TurnFinder::new(end_tokens), skeletons }
    }

    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// By the template itself.
    fn directly(&self, conversation: &Conversation) -> Result<Vec<Rendering>, RenderError> {
        self.turns.renderings(conversation, &self.template.prepare(conversation))
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
