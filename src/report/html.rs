//! Renders the templates. Every value is escaped here, and cut: a session may hold anything, and come from anyone.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::base::numbers::grouped;
use crate::base::printable::printable;
use crate::data::render::template::to_value;

pub(crate) const STYLE: &str = include_str!("report.css");
/// Makes the curves of a page answer.
pub(crate) const SCRIPT: &str = include_str!("curves.js");
const TEMPLATES: [(&str, &str); 10] = [
    ("base.html", include_str!("base.html")),
    ("macros.html", include_str!("macros.html")),
    ("report.html", include_str!("report.html")),
    ("part_head.html", include_str!("part_head.html")),
    ("part_overview.html", include_str!("part_overview.html")),
    ("part_pipeline.html", include_str!("part_pipeline.html")),
    ("part_step.html", include_str!("part_step.html")),
    ("part_rest.html", include_str!("part_rest.html")),
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

/// The templates of pages with one style sheet.
#[derive(Debug)]
pub(crate) struct Templates(Environment<'static>);

impl Templates {
    /// Those of reports, and `more`. `limit`: characters of a text.
    pub(crate) fn new(more: &[(&'static str, &'static str)], style: &str, limit: usize) -> Result<Templates> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        // A misspelled name in a template is an error, not an empty place.
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_formatter(move |out, state, value| match value.as_str() {
            None if value.is_none() => Ok(()),
            Some(text) if !value.is_safe() => {
                out.write_str(&escape(&cut(text, limit))).map_err(|_| minijinja::ErrorKind::WriteFailure.into())
            }
            _ => minijinja::escape_formatter(out, state, value),
        });
        for (name, text) in TEMPLATES.iter().chain(more) {
            environment.add_template(name, text).with_context(|| format!("the template {name} cannot be compiled"))?;
        }
        environment.add_global("style", Value::from_safe_string(style.into()));
        environment.add_global("script", Value::from_safe_string(SCRIPT.into()));
        environment.add_global("policy", Value::from_safe_string(policy(style))); // no text of a session, and never cut
        environment.add_global("version", env!("CARGO_PKG_VERSION"));
        Ok(Templates(environment))
    }

    /// A page or a part of one, made of a template and its values.
    pub(crate) fn render(&self, template: &str, values: &Json) -> Result<String> {
        let page = self.0.get_template(template)?.render(to_value(values));
        page.with_context(|| format!("the template {template} cannot be rendered"))
    }
}

/// The templates of reports, compiled once for each `limit`.
pub(crate) fn templates(limit: usize) -> Result<Arc<Templates>> {
    static MADE: Mutex<Vec<(usize, Arc<Templates>)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = made.iter().find(|(of, _)| *of == limit) {
        return Ok(Arc::clone(known));
    }
    let new = Arc::new(Templates::new(&[], STYLE, limit)?);
    made.push((limit, Arc::clone(&new)));
    Ok(new)
}

/// A page made of a template and its values. `limit`: characters of a text.
pub(crate) fn render(template: &str, values: &Json, limit: usize) -> Result<String> {
    templates(limit)?.render(template, values)
}

/// A page's Content-Security-Policy: its own style sheet and script, by their hashes, and nothing else.
fn policy(style: &str) -> String {
    let (style, script) = (hash_source(style), hash_source(SCRIPT));
    format!("default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'")
}

/// An inline style sheet or script in a policy.
pub(crate) fn hash_source(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
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
