//! Numbers, bars and styles as text.

use std::mem::MaybeUninit;

use crate::base::printable::steers_terminal;

/// Styles text if `colors` is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub colors: bool,
}

impl Style {
    fn wrap(self, codes: &str, text: &str) -> String {
        if self.colors { format!("\x1b[{codes}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Tokens that are trained on.
    pub(crate) fn target(self, text: &str) -> String {
        self.wrap("4;32", text)
    }

    pub(crate) fn control_target(self, text: &str) -> String {
        self.wrap("1;4;32", text)
    }

    pub(crate) fn bar(self, text: &str) -> String {
        self.wrap("36", text)
    }

    pub(crate) fn warning(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn error(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
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

/// 12345 as 12,345.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 12345678 as 12.3 M.
pub(crate) fn short(number: u64) -> String {
    scaled(number, &["", " k", " M", " G", " T"], 1000.0)
}

/// Bytes with a decimal unit.
pub(crate) fn bytes(number: u64) -> String {
    scaled(number, &[" B", " kB", " MB", " GB", " TB"], 1000.0)
}

fn scaled(number: u64, units: &[&str], base: f64) -> String {
    let (mut rest, mut unit) = (number as f64, 0);
    while rest >= base * 0.9995 && unit + 1 < units.len() {
        rest /= base;
        unit += 1;
    }
    if unit == 0 || rest >= 99.95 { format!("{rest:.0}{}", units[unit]) } else { format!("{rest:.1}{}", units[unit]) }
}

/// Seconds, minutes, hours or days.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Columns of the terminal behind stdout.
pub(crate) fn columns() -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the call fills a winsize owned by this function, or fails.
    let size = unsafe {
        if libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) != 0 {
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
    fn numbers_are_formatted_for_reading() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1000, 999_950, 1_234_567].map(short), ["0", "999", "1.0 k", "1.0 M", "1.2 M"]);
        assert_eq!([512, 44_000, 123_456_789].map(bytes), ["512 B", "44.0 kB", "123 MB"]);
        assert_eq!([5.0, 300.0, 36_000.0].map(duration), ["5 s", "5 min", "10.0 h"]);
    }

    #[test]
    fn a_bar_s_length_is_its_share() {
        assert_eq!((bar(0, 10, 8), bar(10, 10, 8), bar(1, 1000, 8)), (String::new(), "████████".into(), "▏".into()));
        assert_eq!(bar(5, 10, 9), "████▌");
    }
}
