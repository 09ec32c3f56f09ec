//! Text of models, data, scripts and file names, made safe to show.
//!
//! A terminal obeys control characters: an answer could recolour the screen, rewrite earlier lines or set the clipboard, and a line
//! break could forge a record of the log. Control characters are shown escaped instead, as in a Rust string, and so are the characters
//! that reverse the direction of text (CVE-2021-42574) and Unicode's own line breaks.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with escaped control characters. Line feeds and tabs stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |symbol| matches!(symbol, '\n' | '\t'))
}

/// The same for text that must stay on one line: line feeds are escaped too.
pub(crate) fn printable_line(text: &str) -> Cow<'_, str> {
    escaped(text, |symbol| symbol == '\t')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let unsafe_symbol = |symbol: char| steers_terminal(symbol) && !stays(symbol);
    if !text.contains(unsafe_symbol) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for symbol in text.chars() {
        match symbol {
            _ if !unsafe_symbol(symbol) => safe.push(symbol),
            '\x00'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f' => drop(write!(safe, "\\x{:02x}", symbol as u32)),
            _ => safe.extend(symbol.escape_default()),
        }
    }
    Cow::Owned(safe)
}

/// Whether a terminal, or a viewer of text, would obey the character instead of showing it.
pub(crate) fn steers_terminal(symbol: char) -> bool {
    symbol.is_control() || matches!(symbol, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_shown_and_plain_text_stays() {
        for plain in ["", "a\tb\nc", "Grüße 你好 🙂 é", "\u{200d}\u{feff}"] {
            assert!(matches!(printable(plain), Cow::Borrowed(same) if same == plain));
        }
        assert_eq!(printable("\x1b[2J\x07\r\x7f"), r"\x1b[2J\x07\r\x7f");
        assert_eq!(printable("\u{9b}31m a\u{2028}b \u{202e}"), r"\u{9b}31m a\u{2028}b \u{202e}");
        assert_eq!(printable_line("a\nb"), r"a\nb");
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_obeys_is_left(text in any::<String>()) {
            let safe = printable(&text).into_owned();
            prop_assert!(safe.chars().all(|symbol| matches!(symbol, '\n' | '\t') || !steers_terminal(symbol)));
            prop_assert!(!printable_line(&text).contains('\n'));
        }
    }
}
