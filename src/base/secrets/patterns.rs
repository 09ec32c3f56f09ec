//! Secrets in running text: keys with a known prefix, passwords in addresses, and values that are assigned to a secret name.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::base::secrets::names::{REDACTED, is_ambiguous, is_secret_name};

/// A known prefix, and how many characters must follow it.
const PREFIXES: [(&str, usize); 26] = [
    ("hf_", 8),
    ("sk-", 8),
    ("sk_live_", 8),
    ("sk_test_", 8),
    ("rk_live_", 8),
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 8),
    ("gho_", 8),
    ("ghu_", 8),
    ("ghs_", 8),
    ("ghr_", 8),
    ("github_pat_", 8),
    ("glpat-", 8),
    ("xoxa-", 8),
    ("xoxb-", 8),
    ("xoxe-", 8),
    ("xoxp-", 8),
    ("xoxr-", 8),
    ("xoxs-", 8),
    ("AIza", 30),
    ("npm_", 30),
    ("pypi-", 30),
    ("gsk_", 16),
    ("nvapi-", 16),
    ("dop_v1_", 16),
];

/// Starts of other secrets.
const URL: &str = "://";
const BEARER: &str = "Bearer ";
const PRIVATE_KEY: &str = "-----BEGIN ";

static STARTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let patterns = PREFIXES.iter().map(|(prefix, _)| *prefix).chain([URL, BEARER, PRIVATE_KEY]);
    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).expect("fixed patterns")
});

/// The places of secrets in a text that need no name, in order.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for start in STARTS.find_iter(text) {
        let known = PREFIXES.get(start.pattern().as_usize());
        match (known, &text[start.range()]) {
            (Some((_, least)), _) => found.extend(key(text, start.range(), *least)),
            (None, URL) => found.extend(in_address(text, start.end())),
            (None, BEARER) => {
                let end = start.end() + span(&text[start.end()..], |byte| is_key_byte(byte) || b".~+/=".contains(&byte));
                found.extend((end >= start.end() + 8).then_some(start.end()..end));
            }
            _ => found.extend(private_key(text, start.start())),
        }
    }
    found
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn span(text: &str, of: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|byte| !of(byte)).unwrap_or(text.len())
}

/// A key with a prefix. A word of lower case letters alone is one only if it is long: `hf_tokenizer` is none.
fn key(text: &str, prefix: Range<usize>, least: usize) -> Option<Range<usize>> {
    let before = text[..prefix.start].bytes().next_back();
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let rest = &text[prefix.end..];
    let rest = &rest[..span(rest, is_key_byte)];
    let random = rest.len() >= 24 && !rest.contains('_') || rest.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    (rest.len() >= least && random).then(|| prefix.start..prefix.end + rest.len())
}

/// The password in `user:password@host`, or the whole user if it has none (other than `git`), and values of secret names in the query.
fn in_address(text: &str, start: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let ends = |byte: u8| byte.is_ascii_whitespace() || b"\"'`<>)]},|".contains(&byte);
    let address = &text[start..start + span(&text[start..], |byte| !ends(byte))];
    let host = span(address, |byte| !b"/?#".contains(&byte));
    // A password may contain a slash or a bracket that should have been escaped.
    let user = address[..host].rfind('@');
    if let Some(user) = user {
        match address[..user].find(':') {
            Some(colon) if colon + 1 < user => found.push(start + colon + 1..start + user),
            None if user > 0 && &address[..user] != "git" => found.push(start..start + user),
            _ => {}
        }
    }
    let Some(query) = address.find('?') else { return found };
    let mut at = query + 1;
    for pair in address[query + 1..].split(['&', ';', '#']) {
        if let Some((name, value)) = pair.split_once('=')
            && !value.is_empty()
            && (is_secret_name(name) || name.to_lowercase().ends_with("signature") || name == "sig")
        {
            found.push(start + at + name.len() + 1..start + at + pair.len());
        }
        at += pair.len() + 1;
    }
    found
}

/// A private key in PEM format, to its end or that of the text.
fn private_key(text: &str, start: usize) -> Option<Range<usize>> {
    let first = text[start..].lines().next().unwrap_or_default();
    if !first.contains("PRIVATE KEY") {
        return None;
    }
    let end = text[start..].find("-----END ").map_or(text.len(), |end| {
        let end = start + end;
        end + text[end..].find('\n').unwrap_or(text.len() - end)
    });
    Some(start..end)
}

/// The places of values in `api_key = value`, `"token": "value"` and `--hf-token value`.
pub(super) fn assigned(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, sign) in text.bytes().enumerate().filter(|(_, byte)| matches!(byte, b'=' | b':')) {
        let before = text[..at].trim_end_matches(' ');
        let quoted = before.ends_with(['"', '\'']);
        let before = before.strip_suffix(['"', '\'']).unwrap_or(before);
        let name = &before[before.bytes().rposition(|byte| !is_key_byte(byte) && byte != b'.').map_or(0, |end| end + 1)..];
        // "token: 5" in running text is no secret, and "::" no assignment.
        // `/etc/passwd: line 3` names a file.
        let is_file = sign == b':' && before[..before.len() - name.len()].ends_with(['/', '\\']) || text[at + 1..].starts_with(" line ");
        let assigns = quoted || !is_file && (sign == b'=' || text[at + 1..].starts_with(' ')) && !is_ambiguous(name);
        if assigns && is_secret_name(name) {
            found.extend(value(text, at + 1));
        }
    }
    found
}

fn value(text: &str, start: usize) -> Option<Range<usize>> {
    let start = start + span(&text[start..], |byte| byte == b' ');
    let rest = &text[start..];
    let range = match rest.bytes().next()? {
        quote @ (b'"' | b'\'') => {
            let inner = &rest[1..];
            let mut escaped = false;
            let end = inner.bytes().position(|byte| {
                let ends = !escaped && (byte == quote || byte == b'\n');
                escaped = byte == b'\\' && !escaped;
                ends
            });
            start + 1..start + 1 + end.unwrap_or(inner.len())
        }
        _ => start..start + span(rest, |byte| !byte.is_ascii_whitespace() && !b",;)]}&\"'".contains(&byte)),
    };
    let plain = ["", "None", "null", "True", "False", "true", "false", REDACTED].contains(&&text[range.clone()]);
    (!plain && !text[range.clone()].starts_with(['{', '[', '(', '='])).then_some(range)
}
