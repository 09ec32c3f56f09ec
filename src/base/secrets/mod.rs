//! Secrets are not written: keys, tokens and passwords stand as `<redacted>` in session.json, begun.json, summary.json and the log.
//!
//! A value is a secret by its name (`names.rs`) or by its form (`patterns.rs`). While a step runs, its secrets are known by value too, so
//! that neither an error, a traceback nor what a script prints puts them into the log. A value of less than eight characters is
//! recognised in text as a whole word only, and one of less than three not at all.

mod names;
mod patterns;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

use crate::base::error::Error;
pub(crate) use crate::base::secrets::names::{REDACTED, is_secret_name};

/// A value of at least this length is recognised inside other words too.
const DISTINCT: usize = 8;
const SHORTEST: usize = 3;

/// The secrets that are known by value.
static KNOWN: Mutex<Option<Arc<Known>>> = Mutex::new(None);

#[derive(Debug)]
struct Known {
    values: Vec<String>,
    search: AhoCorasick,
}

/// Forgets the values on drop.
#[derive(Debug)]
pub(crate) struct RegisteredSecrets(Vec<String>);

impl Drop for RegisteredSecrets {
    fn drop(&mut self) {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut values = known.take().map(|known| known.values.clone()).unwrap_or_default();
        for value in &self.0 {
            if let Some(at) = values.iter().position(|one| one == value) {
                values.swap_remove(at);
            }
        }
        *known = of_values(values);
    }
}

fn of_values(values: Vec<String>) -> Option<Arc<Known>> {
    if values.is_empty() {
        return None;
    }
    let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&values).ok()?;
    Some(Arc::new(Known { values, search }))
}

/// Keeps the secrets in parameters, in the process's arguments and in its environment known until the result is dropped.
pub(crate) fn register(given: &Map<String, Value>) -> RegisteredSecrets {
    let mut found = Vec::new();
    drop(redact_object(given, &mut found));
    drop(redact_argv(&arguments(), &mut found));
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    found.extend(environment.filter(|(name, value)| is_secret_variable(name, value)).map(|(_, value)| value));
    let mut values: Vec<String> = Vec::new();
    for value in found {
        // The lines of a key come one by one if a script prints it; JSON and Python show quotes escaped.
        values.extend(value.lines().filter(|line| line.len() >= 2 * DISTINCT).map(ToString::to_string));
        values.push(Value::from(value.as_str()).to_string().trim_matches('"').to_string());
        values.push(value);
    }
    values.retain(|value| value.len() >= SHORTEST && value != REDACTED);
    values.sort();
    values.dedup();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = known.take().map(|known| known.values.clone()).unwrap_or_default();
    *known = of_values(before.into_iter().chain(values.iter().cloned()).collect());
    RegisteredSecrets(values)
}

/// Whether a variable of the environment holds a secret. Shells keep the working directory in `PWD` and `OLDPWD`, and other variables name
/// the place of a secret, which is none itself.
fn is_secret_variable(name: &str, value: &str) -> bool {
    let is_place = matches!(name, "PWD" | "OLDPWD") || (value.starts_with('/') && std::path::Path::new(value).exists());
    value.len() >= DISTINCT && !is_place && is_secret_name(name)
}

/// The arguments of this process.
pub(crate) fn arguments() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Parameters as they may be written.
pub(crate) fn redacted(given: &Map<String, Value>) -> Map<String, Value> {
    redact_object(given, &mut Vec::new())
}

/// A value as it may be written. Only its strings and fields that are secrets by name or form are replaced.
pub(crate) fn redacted_value(value: &Value) -> Value {
    redact_value(value, false, &mut Vec::new())
}

/// Arguments as they may be written: `--hf-token <redacted>`, `--param api_key=<redacted>`.
pub(crate) fn redacted_argv() -> Vec<String> {
    redact_argv(&arguments(), &mut Vec::new())
}

/// A value with the known secrets replaced, and nothing else: results and metrics of a script.
pub(crate) fn without_known(value: &mut Value) {
    match value {
        Value::String(text) => {
            let places = known_in(text);
            if let Cow::Owned(redacted) = replaced(text, places, &mut Vec::new()) {
                *text = redacted;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_known),
        Value::Object(map) => map.values_mut().for_each(without_known),
        _ => {}
    }
}

/// Running text as it may be written.
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    let mut places = patterns::find(text);
    places.extend(patterns::assigned(text));
    places.extend(known_in(text));
    replaced(text, places, &mut Vec::new())
}

/// An error as it may be written.
pub(crate) fn redact_error(error: Error) -> Error {
    let redacted = |text: String| redact(&text).into_owned();
    Error {
        message: redacted(error.message),
        causes: error.causes.into_iter().map(redacted).collect(),
        traceback: error.traceback.map(redacted),
        ..error
    }
}

fn known_in(text: &str) -> Vec<Range<usize>> {
    let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return Vec::new() };
    let word = |symbol: Option<char>| symbol.is_some_and(char::is_alphanumeric);
    let whole = |place: &Range<usize>| {
        place.len() >= DISTINCT || !word(text[..place.start].chars().next_back()) && !word(text[place.end..].chars().next())
    };
    known.search.find_iter(text).map(|found| found.range()).filter(whole).collect()
}

/// The text with the places replaced; `found` gets what stood there.
fn replaced<'a>(text: &'a str, mut places: Vec<Range<usize>>, found: &mut Vec<String>) -> Cow<'a, str> {
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    places.sort_by_key(|place| place.start);
    let mut safe = String::with_capacity(text.len());
    let mut at = 0;
    for place in places {
        if place.end <= at {
            continue;
        }
        if place.start >= at {
            safe.push_str(&text[at..place.start]);
            safe.push_str(REDACTED);
        }
        found.push(text[place.clone()].to_string());
        at = place.end;
    }
    safe.push_str(&text[at..]);
    Cow::Owned(safe)
}

fn redact_object(map: &Map<String, Value>, found: &mut Vec<String>) -> Map<String, Value> {
    map.iter().map(|(name, value)| (name.clone(), redact_value(value, is_secret_name(name), found))).collect()
}

fn redact_value(value: &Value, secret: bool, found: &mut Vec<String>) -> Value {
    match value {
        Value::String(text) if secret && !text.is_empty() && text != REDACTED => {
            found.push(text.clone());
            REDACTED.into()
        }
        Value::Number(number) if secret => {
            found.push(number.to_string());
            REDACTED.into()
        }
        Value::String(text) => {
            // A dict for a script comes as text from the command line.
            if text.starts_with(['{', '['])
                && let Ok(inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(text)
            {
                let safe = redact_value(&inner, false, found);
                return if safe == inner { value.clone() } else { safe.to_string().into() };
            }
            let mut places = patterns::find(text);
            places.extend(known_in(text));
            replaced(text, places, found).into_owned().into()
        }
        Value::Array(items) => items.iter().map(|item| redact_value(item, secret, found)).collect(),
        Value::Object(map) if secret => map.iter().map(|(name, value)| (name.clone(), redact_value(value, true, found))).collect(),
        Value::Object(map) => redact_object(map, found).into(),
        _ => value.clone(),
    }
}

fn redact_argv(argv: &[String], found: &mut Vec<String>) -> Vec<String> {
    let mut after_secret = false;
    let mut safe = Vec::with_capacity(argv.len());
    for word in argv {
        let is_value = after_secret && !word.starts_with("--");
        let named = word.strip_prefix('-').is_some() && !word.contains(['=', ' ']);
        after_secret = named && is_secret_name(word.trim_start_matches('-'));
        // `--secret name=value`: the name stays.
        safe.push(if is_value && !word.contains('=') {
            found.push(word.clone());
            REDACTED.to_string()
        } else {
            redact_word(word, is_value, found)
        });
    }
    safe
}

/// A word such as `name=value`, `--flag=value` or `--param=name=value`.
fn redact_word(word: &str, secret: bool, found: &mut Vec<String>) -> String {
    if let Some((name, value)) = word.split_once('=')
        && name.chars().all(|symbol| symbol.is_alphanumeric() || "_-./".contains(symbol))
    {
        let secret = secret || is_secret_name(name.trim_start_matches('-'));
        if secret && !value.is_empty() {
            found.push(value.to_string());
            return format!("{name}={REDACTED}");
        }
        return format!("{name}={}", redact_word(value, false, found));
    }
    match redact_value(&Value::from(word), secret, found) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        redact_argv(&words.iter().map(ToString::to_string).collect::<Vec<_>>(), &mut Vec::new())
    }

    #[test]
    fn arguments_keep_their_names() {
        for (given, wanted) in [
            (&["x", "--hf-token", "abc", "--seed", "1"][..], &["x", "--hf-token", "<redacted>", "--seed", "1"][..]),
            (&["--hf-token=abc=="], &["--hf-token=<redacted>"]),
            (&["--param", "api_key=a=b"], &["--param", "api_key=<redacted>"]),
            (&["--param=api_key=abc"], &["--param=api_key=<redacted>"]),
            (&["--secret", "one/api_key=abc"], &["--secret", "one/api_key=<redacted>"]),
            (&["--max-new-tokens", "5", "--pad-token=x"], &["--max-new-tokens", "5", "--pad-token=x"]),
            (&["--param", "auth={\"token\": \"abc\", \"n\": 1}"], &["--param", "auth=<redacted>"]),
            (&["--param", "service={\"token\":\"abc\",\"n\":1}"], &["--param", "service={\"token\":\"<redacted>\",\"n\":1}"]),
            (&["https://me:pw@host/x", "sk-abcdefgh1234"], &["https://me:<redacted>@host/x", "<redacted>"]),
        ] {
            assert_eq!(argv(given), wanted);
        }
    }

    #[test]
    fn parameters_are_redacted_at_any_depth_and_the_rest_stays() {
        let given = json!({"params": {"service": {"name": "x", "credentials": {"user": "me", "pin": 1234}, "keys": ["a"]}, "top": 3,
            "text": "{\"password\":\"abc\"}", "max_tokens": 5, "token": null, "password": ""}, "dataset_path": "https://u:p@h/d.json?token=t&x=1"});
        let wanted = json!({"params": {"service": {"name": "x", "credentials": {"user": "<redacted>", "pin": "<redacted>"}, "keys": ["a"]},
            "top": 3, "text": "{\"password\":\"<redacted>\"}", "max_tokens": 5, "token": null, "password": ""},
            "dataset_path": "https://u:<redacted>@h/d.json?token=<redacted>&x=1"});
        assert_eq!(Value::Object(redacted(given.as_object().unwrap())), wanted);
    }

    #[test]
    fn running_text_has_known_values_known_forms_and_assignments_redacted() {
        let held = register(json!({"params": {"api_key": "s3cret-value", "password": "abc"}}).as_object().unwrap());
        for (text, wanted) in [
            ("x s3cret-value's3cret-valuey", "x <redacted>'<redacted>y"),
            ("abc abcd (abc)", "<redacted> abcd (<redacted>)"),
            ("hf_abcdEFGH1234 hf_tokenizer sk-learn task-12345678", "<redacted> hf_tokenizer sk-learn task-12345678"),
            ("at https://me:pa@ss@host/x and ssh://git@host", "at https://me:<redacted>@host/x and ssh://git@host"),
            ("db_password = 'x\\'y' client_secret=z, next", "db_password = '<redacted>' client_secret=<redacted>, next"),
            ("{'token': 'x', \"n\": 1} token: 5 pad_token=<pad>", "{'token': '<redacted>', \"n\": 1} token: 5 pad_token=<pad>"),
            ("Authorization: Bearer abcdefghi.jkl", "Authorization: <redacted> <redacted>"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nrest", "<redacted>\nrest"),
            ("api_key = None", "api_key = None"),
        ] {
            assert_eq!(redact(text), wanted);
        }
        drop(held);
        assert_eq!(redact("s3cret-value"), "s3cret-value");
    }
}
