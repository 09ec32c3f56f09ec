//! An item into a conversation: in one pass where it is plain; piece by piece, with all its faults, where it is not.

pub(crate) mod conversation;
pub(crate) mod diagnostic;
pub(crate) mod fast;
pub(crate) mod faults;
pub(crate) mod format;
pub(crate) mod formats;
pub(crate) mod json;
pub(crate) mod json_error;
pub(crate) mod messages;
