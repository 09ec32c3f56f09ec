//! Collects the problems of one item.

use serde_json::value::RawValue;

use crate::data::parse::json::json_type_name;

/// Passes the problems of one item on to `tell` as offset in the item, path and message, and counts them.
pub(crate) struct ProblemCollector<'a> {
    pub(crate) item: &'a str,
    pub(crate) tell: &'a mut dyn FnMut(usize, String, String),
    pub(crate) count: usize,
}

impl ProblemCollector<'_> {
    /// Adds a problem at `at`, which is a part of the item's text.
    pub fn add(&mut self, at: &str, path: impl Into<String>, message: impl Into<String>) {
        let offset = (at.as_ptr() as usize).saturating_sub(self.item.as_ptr() as usize).min(self.item.len());
        self.add_at(offset, path.into(), message.into());
    }

    fn add_at(&mut self, offset: usize, path: String, message: String) {
        self.count += 1;
        (self.tell)(offset, path, message);
    }

    /// Reports a value that is not an object. An unreadable object has an unpaired surrogate in a key, which
    /// [`check_value`](crate::data::parse::json::check_value) has reported already.
    pub fn not_an_object(&mut self, at: &str, path: &str, message: impl Into<String>) {
        if !at.starts_with('{') {
            self.add(at, path, message);
        }
    }

    /// Reports "must be …, not …". An unreadable string has an unpaired surrogate, which
    /// [`check_value`](crate::data::parse::json::check_value) has reported already.
    pub fn must_be(&mut self, what: &str, raw: &RawValue, path: &str) {
        let actual = json_type_name(raw);
        if !(actual == "a string" && what.starts_with("a string")) {
            self.add(raw.get(), path, format!("must be {what}, not {actual}"));
        }
    }
}
