//! What a JSON parser's error says, and where it stopped.

use std::borrow::Cow;

/// serde_json's words without the place; a place first reads better.
pub(crate) fn words(cause: &serde_json::Error) -> String {
    let words = cause.to_string();
    words.split(" at line ").next().unwrap_or_default().to_string()
}

pub(crate) fn invalid(text: &str, at: usize, cause: &serde_json::Error) -> Cow<'static, str> {
    let words = words(cause);
    let before = text.as_bytes()[..at].iter().rev().find(|byte| !byte.is_ascii_whitespace());
    if let (Some(b','), Some(b'}' | b']')) = (before, text.as_bytes().get(at)) {
        return "trailing comma; remove it".into();
    }
    if words.starts_with("control character") {
        match text.as_bytes().get(at) {
            Some(b'\n' | b'\r') => return "a line break within a text; write it as \\n, or close the text".into(),
            Some(0) => return "a NUL byte; the file is damaged, or not UTF-8".into(),
            Some(b'\t') => return "a tab within a text; write it as \\t".into(),
            _ => {}
        }
    }
    if text.as_bytes().get(at) == Some(&0) { "a NUL byte; the file is damaged, or not UTF-8".into() } else { words.into() }
}

/// Where the parser stopped.
pub(crate) fn offset(text: &[u8], cause: &serde_json::Error) -> usize {
    let line = cause.line().saturating_sub(1);
    let start = if line == 0 { Some(0) } else { memchr::memchr_iter(b'\n', text).nth(line - 1).map(|end| end + 1) };
    // A column counts bytes up to where the parser stands: after the byte it stumbled over, but before a control character.
    let over = usize::from(!words(cause).starts_with("control character"));
    (start.unwrap_or(text.len()) + cause.column()).saturating_sub(over).min(text.len())
}
