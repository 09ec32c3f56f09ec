//! An answer on a terminal, broken between words while it grows.
//!
//! A word is written when it is complete, since only then is it known whether it fits. Lines of code, between lines that begin with three
//! backticks, stay as they are: the terminal breaks them itself, so that they can be copied.

use std::mem::take;
use std::sync::{Mutex, PoisonError};

use crate::cli::output::stdout_width;
use crate::cli::wrap::width_of;

const FENCE: &str = "```";

static GROWING: Mutex<WordWrap> = Mutex::new(WordWrap::new());

/// What to write now of the next part of an answer. Without a terminal as stdout: all of it.
pub(crate) fn next_part(text: &str) -> String {
    match stdout_width() {
        Some(width) => GROWING.lock().unwrap_or_else(PoisonError::into_inner).push(text, width),
        None => text.to_string(),
    }
}

/// What is left to write at the end of an answer.
pub(crate) fn last_part() -> String {
    let mut growing = GROWING.lock().unwrap_or_else(PoisonError::into_inner);
    let rest = growing.end_word(stdout_width().unwrap_or(usize::MAX));
    *growing = WordWrap::new();
    rest
}

#[derive(Debug)]
struct WordWrap {
    /// Columns of the line that was written.
    columns: usize,
    /// Not yet written.
    word: String,
    /// The first characters of the line.
    start: String,
    in_code: bool,
}

impl WordWrap {
    const fn new() -> WordWrap {
        WordWrap { columns: 0, word: String::new(), start: String::new(), in_code: false }
    }

    fn push(&mut self, text: &str, width: usize) -> String {
        let mut done = String::new();
        for c in text.chars() {
            if c == '\n' {
                done.push_str(&self.end_word(width));
                done.push(c);
                self.in_code ^= take(&mut self.start) == FENCE;
                self.columns = 0;
                continue;
            }
            if self.start.len() < FENCE.len() {
                self.start.push(c);
            }
            let columns = width_of(c.encode_utf8(&mut [0; 4]));
            if self.in_code || c == ' ' || columns == 2 {
                done.push_str(&self.end_word(width));
                self.word.push(c);
                // A space at the end of a line is written beyond it, where nobody sees it.
                if self.in_code || c != ' ' || self.columns < width {
                    done.push_str(&self.end_word(width));
                }
                self.word.clear();
            } else {
                self.word.push(c);
            }
        }
        done
    }

    /// Writes the word, on a new line if it does not fit.
    fn end_word(&mut self, width: usize) -> String {
        let word = take(&mut self.word);
        let columns = width_of(&word);
        if self.in_code || self.columns == 0 || self.columns + columns <= width {
            // A longer word is broken by the terminal.
            let ends = self.columns + columns;
            self.columns = if ends > width { ends % width.max(1) } else { ends };
            return word;
        }
        self.columns = if columns > width { columns % width.max(1) } else { columns };
        format!("\n{word}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text as it is written, whatever the parts are in which it comes.
    fn wrapped(text: &str, width: usize) -> String {
        let by_parts = |size: usize| {
            let mut growing = WordWrap::new();
            let chars: Vec<char> = text.chars().collect();
            let parts = chars.chunks(size).map(|part| growing.push(&part.iter().collect::<String>(), width)).collect::<String>();
            parts + &growing.end_word(width)
        };
        let whole = by_parts(usize::MAX);
        for size in 1..5 {
            assert_eq!(by_parts(size), whole);
        }
        whole
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three four", 9), "one two \nthree \nfour");
        assert_eq!(wrapped("one two three", 13), "one two three");
        assert_eq!(wrapped("a\n\n  b c", 10), "a\n\n  b c");
        assert_eq!(wrapped("exactly ten", 7), "exactly\nten");
        assert_eq!(wrapped("東京は日本", 4), "東京\nは日\n本");
        assert_eq!(wrapped("a verylongword b", 6), "a \nverylongword b");
    }

    #[test]
    fn code_stays_as_it_is() {
        let code = "see:\n```python\nprint('a long line of code')\n```\n";
        assert_eq!(wrapped(code, 10), code);
        assert_eq!(wrapped(&format!("{code}and words again"), 10), format!("{code}and words \nagain"));
    }
}
