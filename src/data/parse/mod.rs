//! Parses an item into a conversation: in one pass if it is valid and in the messages format, otherwise field by field with all problems.

pub(crate) mod columns;
pub(crate) mod conversation;
pub(crate) mod dataset_format;
pub(crate) mod diagnostic;
pub(crate) mod fast;
pub(crate) mod formats;
pub(crate) mod item;
pub(crate) mod item_keys;
pub(crate) mod json;
pub(crate) mod json_error;
pub(crate) mod messages;
pub(crate) mod problem_collector;
pub(crate) mod remarks;
pub(crate) mod tool_calls;
pub(crate) mod train_flag;
pub(crate) mod unique_keys;
pub(crate) mod unknown_format;
