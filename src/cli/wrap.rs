//! Text in the columns of a terminal: its width, cut, padded, or with its lines broken at spaces.
//!
//! Escape sequences of colours take no column, and a colour ends before each break and starts again after it. Characters of East Asian
//! scripts and emoji take two columns, and a line may be broken between them, because such text has no spaces. What is in backticks, such
//! as a command, is one word: the terminal itself breaks what is too long for a line, and that can be copied.

use unicode_width::UnicodeWidthChar;

/// Columns in which the value of a list's field starts at most.
const FIELD: usize = 32;

const TAB: usize = 8;

/// Joins emoji into one.
const JOINER: char = '\u{200d}';

/// The columns of a line. A combination of emoji takes at most so many.
pub(crate) fn width_of(line: &str) -> usize {
    pieces(line).fold(0, |at, piece| at + columns_of(piece, at))
}

/// `text` with spaces to `width` columns.
pub(crate) fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(width_of(text))))
}

/// The start of a text without colours in at most `width` columns; what is cut off becomes an ellipsis.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_string();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width_of(&kept) > width.saturating_sub(1) {
            kept.pop();
            break;
        }
    }
    if width == 0 { String::new() } else { format!("{}…", kept.trim_end()) }
}

/// The end of a text in at most `width` columns, after an ellipsis if it is cut: of a path the end says most.
pub(crate) fn tail(text: &str, width: usize) -> String {
    let starts = || text.char_indices().map(|(at, _)| at).chain([text.len()]);
    match width_of(text) {
        all if all <= width => text.to_string(),
        _ => starts().find(|at| width_of(&text[*at..]) < width).map_or_else(String::new, |at| format!("…{}", &text[at..])),
    }
}

/// Breaks lines at spaces to at most `width` columns. A continuation starts below the value of a list's field (`  model     builtin:tiny`);
/// otherwise two columns deeper than its line, if that is indented or begins with a label (`warning: `).
pub(crate) fn wrapped(text: &str, width: usize) -> String {
    wrapped_below(text, width, hanging)
}

/// Breaks lines at spaces to at most `width` columns. A continuation is indented by `hanging` of its line.
pub(crate) fn wrapped_below(text: &str, width: usize, hanging: impl Fn(&str) -> usize) -> String {
    let lines = text.split('\n').map(|line| if width_of(line) <= width { line.to_string() } else { broken(line, width, hanging(line)) });
    lines.collect::<Vec<_>>().join("\n")
}

/// A command for a shell after a label, broken at spaces between its words so that it can be copied: each line but the last ends in a
/// backslash.
pub(crate) fn wrapped_command(label: &str, command: &str, width: usize, style: impl Fn(&str) -> String) -> String {
    let mut lines = vec![label.to_string()];
    let mut columns = width_of(label);
    let mut is_first = true;
    let words = shell_words(command);
    for (i, word) in words.iter().enumerate() {
        let backslash = if i + 1 < words.len() { 2 } else { 0 };
        if !is_first && columns + 1 + width_of(word) + backslash > width {
            lines.last_mut().expect("there is a line").push_str(" \\");
            lines.push("   ".to_string());
            columns = 3;
        }
        let line = lines.last_mut().expect("there is a line");
        line.push_str(if is_first { "" } else { " " });
        columns += width_of(word) + usize::from(!is_first);
        line.push_str(word);
        is_first = false;
    }
    let styled = lines.iter().enumerate().map(|(i, line)| match line.strip_prefix(label).filter(|_| i == 0) {
        Some(rest) => format!("{label}{}", style(rest)),
        None => style(line),
    });
    styled.collect::<Vec<_>>().join("\n")
}

/// The words of a command, with their quotes.
fn shell_words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in command.chars() {
        if c == ' ' && !quoted && !escaped {
            words.push(String::new());
            continue;
        }
        quoted ^= c == '\'' && !escaped;
        escaped = c == '\\' && !quoted && !escaped;
        words.last_mut().expect("there is a word").push(c);
    }
    words
}

/// Where the continuations of a line start.
fn hanging(line: &str) -> usize {
    let plain: String = pieces(line).filter(|piece| !piece.starts_with('\x1b')).collect();
    let indent = plain.len() - plain.trim_start_matches(' ').len();
    let ends_gap = |at: usize| at > indent && plain[..at].ends_with("  ") && !plain[at..].starts_with(' ');
    let within = plain.char_indices().map(|(at, _)| at).take_while(|at| width_of(&plain[..*at]) <= FIELD);
    if let Some(value) = within.filter(|at| ends_gap(*at)).last() {
        return width_of(&plain[..value]);
    }
    let is_label = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let labelled = plain.split_once(": ").is_some_and(|(word, _)| is_label(word));
    if indent > 0 || labelled { indent + 2 } else { 0 }
}

/// One line in several, of which the first starts as it does.
fn broken(line: &str, width: usize, hanging: usize) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    // Some room remains in a narrow terminal.
    let hanging = if hanging > width / 3 * 2 { (indent + 2).min(width / 3) } else { hanging };
    let mut breaking =
        Breaking { width, hanging, done: String::new(), columns: 0, style: String::new(), gap: String::new(), word: String::new() };
    let (mut joined, mut in_backticks) = (false, false);
    // A backtick without a second one is a character like others.
    let mut backticks = line.matches('`').count() / 2 * 2;
    for piece in pieces(line) {
        if piece == "`" && backticks > 0 {
            backticks -= 1;
            in_backticks = !in_backticks;
        }
        if piece == " " && !in_backticks {
            breaking.end_word();
            breaking.gap.push(' ');
            continue;
        }
        let is_wide = columns_of(piece, 0) == 2 && !joined && !in_backticks;
        if is_wide {
            breaking.end_word();
        }
        joined = piece.ends_with(JOINER);
        breaking.word.push_str(piece);
        if is_wide {
            breaking.end_word();
        }
    }
    breaking.end_word();
    breaking.done + breaking.gap.trim_end_matches(' ')
}

struct Breaking {
    width: usize,
    hanging: usize,
    done: String,
    /// Of the last line of `done`.
    columns: usize,
    /// The escape sequences in force at the end of `done`.
    style: String,
    /// Spaces that are not yet written.
    gap: String,
    word: String,
}

impl Breaking {
    /// Writes the word, on a new line if it does not fit and that gives it more room.
    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let (gap, word) = (std::mem::take(&mut self.gap), std::mem::take(&mut self.word));
        let begins = self.columns + gap.len();
        let ends = pieces(&word).fold(begins, |at, piece| at + columns_of(piece, at));
        if ends > self.width && begins > self.hanging && self.columns > 0 {
            self.done.push_str(if self.style.is_empty() { "\n" } else { "\x1b[0m\n" });
            self.done.push_str(&" ".repeat(self.hanging));
            self.done.push_str(&self.style);
            self.columns = self.hanging + width_of(&word);
        } else {
            self.done.push_str(&gap);
            self.columns = ends;
        }
        self.done.push_str(&word);
        for piece in pieces(&word).filter(|piece| piece.starts_with('\x1b')) {
            if ["\x1b[0m", "\x1b[m"].contains(&piece) {
                self.style.clear();
            } else {
                self.style.push_str(piece);
            }
        }
    }
}

/// The escape sequences of colours and the characters of a line.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let escape = rest.strip_prefix("\x1b[").and_then(|codes| codes.find(|c: char| c.is_ascii_alphabetic())).map(|end| end + 3);
        let (piece, after) = rest.split_at(escape.unwrap_or(first.len_utf8()));
        rest = after;
        Some(piece)
    })
}

/// The columns of a piece that starts in the column `at`.
fn columns_of(piece: &str, at: usize) -> usize {
    match piece.chars().next() {
        Some('\x1b') | None => 0,
        Some('\t') => TAB - at % TAB,
        Some(c) => c.width().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_path_the_end_is_kept() {
        assert_eq!((tail("abcdef", 4), tail("abcd", 4), tail("abc", 0)), ("…def".into(), "abcd".into(), String::new()));
        assert_eq!((cut("abcdef", 4), cut("abcd", 4), cut("ab", 0)), ("abc…".into(), "abcd".into(), String::new()));
        assert_eq!((cut("模型名称", 6), tail("模型名称", 6)), ("模型…".into(), "…名称".into()));
        assert_eq!((padded("模", 4), padded("abc", 2)), ("模  ".into(), "abc".into()));
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        assert_eq!(wrapped("one two three", 7), "one two\nthree");
        assert_eq!(wrapped("one two three", 8), "one two\nthree");
        assert_eq!(wrapped("unbreakable", 4), "unbreakable");
        assert_eq!(wrapped("an unbreakable word then others", 8), "an\nunbreakable\nword\nthen\nothers");
        assert_eq!(wrapped("ééé ééé\n\nend", 4), "ééé\nééé\n\nend");
        assert_eq!(wrapped("one two  ", 7), "one two");
    }

    #[test]
    fn a_continuation_hangs_below_its_value_or_behind_its_line() {
        assert_eq!(wrapped("head\n    model     a bb ccc dd", 22), "head\n    model     a bb ccc\n              dd");
        assert_eq!(wrapped("    model     a bb ccc", 18), "    model     a bb\n      ccc", "a narrow terminal");
        assert_eq!(wrapped("  model   aa bb cc dd", 20), "  model   aa bb cc\n          dd");
        assert_eq!(wrapped("FAIL Python     aaa bbb ccc ddd eee fff", 36), "FAIL Python     aaa bbb ccc ddd eee\n                fff");
        assert_eq!(wrapped("warning: one two three", 16), "warning: one two\n  three");
        assert_eq!(wrapped("  line 3: one two", 14), "  line 3: one\n    two");
        // A value is never moved below its name.
        assert_eq!(wrapped("  model     /a/long/path/of/a/model then", 26), "  model     /a/long/path/of/a/model\n            then");
        assert_eq!(wrapped_below("a b c", 3, |_| 1), "a b\n c");
    }

    #[test]
    fn colours_take_no_column_and_end_at_each_break() {
        assert_eq!(width_of("\x1b[1;31merror\x1b[0m: x"), 8);
        assert_eq!(wrapped("\x1b[33mone two\x1b[0m three", 7), "\x1b[33mone two\x1b[0m\nthree");
        assert_eq!(wrapped("\x1b[33mone two three\x1b[0m", 7), "\x1b[33mone two\x1b[0m\n\x1b[33mthree\x1b[0m");
    }

    #[test]
    fn wide_characters_take_two_columns_and_need_no_space() {
        assert_eq!((width_of("模型"), width_of("a\tb")), (4, 9));
        assert_eq!(wrapped("模型名称", 5), "模型\n名称");
        assert!(wrapped("👩\u{200d}🚀👩\u{200d}🚀", 4).lines().all(|line| line.contains("👩\u{200d}🚀")));
    }

    #[test]
    fn nothing_is_lost_at_any_width() {
        let text = "  warning: \x1b[1mthe quantization\x1b[0m of 模型 experts  needs more/memory/than/this machine";
        let words = |text: &str| pieces(text).filter(|piece| !piece.trim().is_empty() && !piece.starts_with('\x1b')).collect::<String>();
        for width in 1..100 {
            let made = wrapped(text, width);
            assert_eq!(words(&made), words(text), "{width}: {made}");
            assert!(made.lines().all(|line| width_of(line) <= width || !line.trim_start().contains(' ')), "{width}:\n{made}");
        }
    }

    #[test]
    fn what_is_in_backticks_is_not_broken() {
        assert_eq!(wrapped("do `one two three` then", 12), "do\n`one two three`\nthen");
        assert_eq!(wrapped("do `one two` now", 9), "do\n`one two`\nnow");
        assert_eq!(wrapped("it`s one two", 8), "it`s one\ntwo", "an apostrophe");
        assert_eq!(wrapped("`a b` it`s one two", 9), "`a b`\nit`s one\ntwo");
        assert_eq!(wrapped("do `a long command` now", 8), "do\n`a long command`\nnow", "the terminal breaks it");
    }

    #[test]
    fn a_command_can_be_copied() {
        let bold = |text: &str| format!("<{text}>");
        let command = r"pyrust-nn inference --model a/b --runs-dir '/it'\''s here' --prompt Hello";
        assert_eq!(wrapped_command("next: ", command, 200, bold), format!("next: <{command}>"));
        assert_eq!(
            wrapped_command("next: ", command, 40, str::to_string),
            "next: pyrust-nn inference --model a/b \\\n    --runs-dir '/it'\\''s here' \\\n    --prompt Hello"
        );
    }
}
