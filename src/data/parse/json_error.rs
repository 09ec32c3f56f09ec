//! Message and position of a JSON parser's error.

use std::borrow::Cow;

/// serde_json's message without its position, which our messages put first.
pub(crate) fn message_without_position(cause: &serde_json::Error) -> String {
    let message = cause.to_string();
    message.split(" at line ").next().unwrap_or_default().to_string()
}

/// Whether a message of [`describe`] is about JSON that ends too early.
pub(crate) fn is_truncated(message: &str) -> bool {
    message.contains("EOF while parsing")
}

/// Describes a syntax error at offset `at`, with a fix for common mistakes.
pub(crate) fn describe(text: &str, at: usize, cause: &serde_json::Error) -> Cow<'static, str> {
    let words = message_without_position(cause);
    let before = text.as_bytes()[..at].iter().rev().find(|byte| !byte.is_ascii_whitespace());
    if let (Some(b','), Some(b'}' | b']')) = (before, text.as_bytes().get(at)) {
        return "trailing comma; remove it".into();
    }
    if words.starts_with("control character") {
        match text.as_bytes().get(at) {
            Some(b'\n' | b'\r') => return "a line break within a string; write it as \\n, or close the string".into(),
            Some(0) => return "a NUL byte; the file is damaged, or not UTF-8".into(),
            Some(b'\t') => return "a tab within a string; write it as \\t".into(),
            _ => {}
        }
    }
    if text.as_bytes().get(at) == Some(&0) { "a NUL byte; the file is damaged, or not UTF-8".into() } else { words.into() }
}

/// The offset at which the parser stopped.
pub(crate) fn error_offset(text: &[u8], cause: &serde_json::Error) -> usize {
    let line = cause.line().saturating_sub(1);
    let start = if line == 0 { Some(0) } else { memchr::memchr_iter(b'\n', text).nth(line - 1).map(|end| end + 1) };
    // The column counts bytes up to the parser's position: after the byte that caused the error, but before a control character.
    let over = usize::from(!message_without_position(cause).starts_with("control character"));
    (start.unwrap_or(text.len()) + cause.column()).saturating_sub(over).min(text.len())
}
