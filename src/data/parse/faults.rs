//! Where the faults of one item go, and what a JSON parser's error says.

use serde_json::value::RawValue;

use crate::data::parse::json::sort;

/// Where the faults of one item go: offset in the item, path, words.
pub(crate) struct Faults<'a> {
    pub(crate) item: &'a str,
    pub(crate) tell: &'a mut dyn FnMut(usize, String, String),
    pub(crate) count: usize,
}

impl Faults<'_> {
    /// Adds one at a piece of the item.
    pub fn add(&mut self, at: &str, path: impl Into<String>, words: impl Into<String>) {
        let offset = (at.as_ptr() as usize).saturating_sub(self.item.as_ptr() as usize).min(self.item.len());
        self.add_at(offset, path.into(), words.into());
    }

    fn add_at(&mut self, offset: usize, path: String, words: String) {
        self.count += 1;
        (self.tell)(offset, path, words);
    }

    /// Adds that a piece is no object. One that cannot be read has half a character in a key, and [`walk`] has said so.
    pub fn no_object(&mut self, at: &str, path: &str, words: impl Into<String>) {
        if !at.starts_with('{') {
            self.add(at, path, words);
        }
    }

    /// Adds "must be …, not …". A text that is none has half a character, and [`walk`] has said so.
    pub fn must_be(&mut self, what: &str, raw: &RawValue, path: &str) {
        let not = sort(raw);
        if !(not == "a text" && what.starts_with("a text")) {
            self.add(raw.get(), path, format!("must be {what}, not {not}"));
        }
    }
}
