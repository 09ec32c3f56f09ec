//! Numbers, bars and styles as text.

use std::mem::MaybeUninit;

pub(crate) use crate::base::numbers::{bytes, counted, duration, grouped, short, significant};
use crate::base::printable::steers_terminal;
use crate::base::terminal::Terminal;

/// Bright blue, for warnings magenta as compilers have it, for errors red: readable on black and on white, as green, cyan and yellow are not.
const ACCENT: u8 = 94;
const WARNING: u8 = 35;
const ERROR: u8 = 31;

/// Styles text if `colors` is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub colors: bool,
}

impl Style {
    /// Colours for a terminal as stdout, unless NO_COLOR is set.
    pub(crate) fn of_stdout() -> Style {
        Style { colors: Terminal::Stdout.is_terminal() && !no_color() }
    }

    /// Colours for a terminal as stderr, unless NO_COLOR is set.
    pub(crate) fn of_stderr() -> Style {
        Style { colors: Terminal::Stderr.is_terminal() && !no_color() }
    }

    fn wrap(self, codes: &str, text: &str) -> String {
        if self.colors && !text.is_empty() { format!("\x1b[{codes}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Tokens that are trained on.
    pub(crate) fn target(self, text: &str) -> String {
        self.wrap(&format!("4;{ACCENT}"), text)
    }

    pub(crate) fn control_target(self, text: &str) -> String {
        self.wrap(&format!("1;4;{ACCENT}"), text)
    }

    pub(crate) fn bar(self, text: &str) -> String {
        self.wrap(&ACCENT.to_string(), text)
    }

    pub(crate) fn warning(self, text: &str) -> String {
        self.wrap(&format!("1;{WARNING}"), text)
    }

    pub(crate) fn error(self, text: &str) -> String {
        self.wrap(&format!("1;{ERROR}"), text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrap(&ACCENT.to_string(), text)
    }
}

/// Escapes the user's text for the terminal: control characters become visible symbols, and characters that change the writing direction
/// become their code points. Newlines and tabs stay.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c.to_string(),
            '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or_default().to_string(),
            '\x7f' => '\u{2421}'.to_string(),
            // Marks of a direction are usual in text, but a preview shows every character.
            c if steers_terminal(c) || matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}') => c.escape_unicode().to_string(),
            c => c.to_string(),
        })
        .collect()
}

/// A bar of length `part / whole * room` columns, in steps of an eighth of a column. It is empty only if `part` is 0.
pub(crate) fn bar(part: u64, whole: u64, room: usize) -> String {
    const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    if part == 0 || whole == 0 {
        return String::new();
    }
    let eighths = ((part as f64 / whole as f64 * room as f64 * 8.0).round() as usize).max(1);
    let mut drawn = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        drawn.push(EIGHTHS[eighths % 8 - 1]);
    }
    drawn
}

/// Whether NO_COLOR is set and not empty (no-color.org).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Columns of the terminal, if it is one.
pub(crate) fn columns(terminal: Terminal) -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the call fills a winsize owned by this function, or fails.
    let size = unsafe {
        if libc::ioctl(terminal.descriptor(), libc::TIOCGWINSZ, size.as_mut_ptr()) != 0 {
            return None;
        }
        size.assume_init()
    };
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_readable_on_black_and_on_white() {
        // Of xterm: https://invisible-island.net/xterm/manpage/xterm.html#VT100-Widget-Resources
        let rgb = |code: u8| match code {
            31 => [205, 0, 0],
            32 => [0, 205, 0],
            33 => [205, 205, 0],
            35 => [205, 0, 205],
            36 => [0, 205, 205],
            94 => [92, 92, 255],
            _ => panic!("{code}"),
        };
        // https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
        let luminance = |code: u8| -> f64 {
            let linear = rgb(code)
                .map(|part| f64::from(part) / 255.0)
                .map(|part| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) });
            linear.iter().zip([0.2126, 0.7152, 0.0722]).map(|(part, weight)| part * weight).sum()
        };
        // WCAG's least contrast of large or bold text and of graphics.
        let is_readable = |code: u8| ((luminance(code) + 0.05) / 0.05).min(1.05 / (luminance(code) + 0.05)) >= 3.0;
        assert!([ACCENT, WARNING, ERROR].into_iter().all(is_readable));
        assert!(![32, 33, 36].into_iter().any(is_readable), "green, yellow, cyan");
    }

    #[test]
    fn a_bar_s_length_is_its_share() {
        assert_eq!((bar(0, 10, 8), bar(10, 10, 8), bar(1, 1000, 8)), (String::new(), "████████".into(), "▏".into()));
        assert_eq!(bar(5, 10, 9), "████▌");
    }
}
