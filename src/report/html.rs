//! Renders the templates. Every value is escaped here, and cut: a session may hold anything, and come from anyone.

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::base::numbers::grouped;
use crate::base::printable::printable;
use crate::data::render::template::to_value;

const STYLE: &str = include_str!("report.css");
const TEMPLATES: [(&str, &str); 4] = [
    ("base.html", include_str!("base.html")),
    ("report.html", include_str!("report.html")),
    ("compare.html", include_str!("compare.html")),
    ("summary.html", include_str!("summary.html")),
];

/// Text for HTML, in an element or in a quoted attribute. Characters that would be obeyed instead of shown are shown escaped.
pub(crate) fn escape(text: &str) -> String {
    let text = printable(text);
    let mut safe = String::with_capacity(text.len() + 16);
    for symbol in text.chars() {
        match symbol {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            symbol => safe.push(symbol),
        }
    }
    safe
}

/// At most `limit` characters of a text; what was cut is counted.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_string(),
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], grouped(text.chars().count() as u64)),
    }
}

/// A page made of a template and its values. `limit`: characters of a text.
pub(crate) fn render(template: &str, values: &Json, limit: usize) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    // A misspelled name in a template is an error, not an empty place.
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_formatter(move |out, state, value| match value.as_str() {
        None if value.is_none() => Ok(()),
        Some(text) if !value.is_safe() => out.write_str(&escape(&cut(text, limit))).map_err(|_| minijinja::ErrorKind::WriteFailure.into()),
        _ => minijinja::escape_formatter(out, state, value),
    });
    for (name, text) in TEMPLATES {
        environment.add_template(name, text).with_context(|| format!("the template {name} cannot be compiled"))?;
    }
    environment.add_global("style", Value::from_safe_string(STYLE.into()));
    environment.add_global("policy", policy());
    environment.add_global("version", env!("CARGO_PKG_VERSION"));
    let page = environment.get_template(template)?.render(to_value(values));
    page.with_context(|| format!("the template {template} cannot be rendered"))
}

/// The page's Content-Security-Policy: its own style sheet, by its hash, and nothing else.
fn policy() -> String {
    format!("default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'", base64(&Sha256::digest(STYLE)))
}

/// Base64 (RFC 4648) of a hash.
fn base64(bytes: &[u8]) -> String {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for block in bytes.chunks(3) {
        let bits = block.iter().enumerate().fold(0_u32, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            text.push(if i <= block.len() { char::from(SYMBOLS[(bits >> (18 - 6 * i)) as usize & 63]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, wanted) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), wanted);
        }
    }

    #[test]
    fn no_text_is_markup() {
        let text = "</style><script>alert('1')</script>\u{1b}[2J\u{202e}\" onload=x & é 🙂";
        let safe = escape(text);
        assert!(!safe.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}']), "{safe}");
        assert!(safe.ends_with("&amp; é 🙂"), "{safe}");
        assert_eq!(cut("äbc", 3), "äbc");
        assert_eq!(cut(&"ä".repeat(1234), 2), "ää… (1,234 characters)");
    }
}
