//! Renders a conversation with the model's chat template, and finds the positions of its turns.

pub(crate) mod chat_renderer;
pub(crate) mod exchanges;
pub(crate) mod jinja_methods;
pub(crate) mod long_conversations;
pub(crate) mod rendering;
pub(crate) mod rendering_frame;
pub(crate) mod template;
pub(crate) mod template_cache;
mod template_limits;
pub(crate) mod thinking;
pub(crate) mod turns;
