//! Whether two recorded values are the same, apart from what must differ between two runs: times, and the names of the two sessions.

use serde_json::Value;

/// The names of both sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionNames<'a> {
    pub first: &'a str,
    pub again: &'a str,
}

impl SessionNames<'_> {
    /// A text of the repetition with the first session's name where it has its own.
    pub(super) fn as_first(self, text: &str) -> String {
        self.renamed(text, self.again)
    }

    /// A text with the first session's name for that of `session`. A path into the session begins with its name: a session may have been moved.
    fn renamed(self, text: &str, session: &str) -> String {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(session) {
            let end = at + session.len();
            let whole = !rest[..at].chars().next_back().is_some_and(is_part) && !rest[end..].chars().next().is_some_and(is_part);
            out.push_str(&rest[..at]);
            if whole && out.ends_with('/') && rest[end..].starts_with('/') {
                let path = out.rfind(|c: char| c.is_whitespace() || c == '"' || c == '\'').map_or(0, |before| before + 1);
                out.truncate(path);
            }
            out.push_str(if whole { self.first } else { session });
            rest = &rest[end..];
        }
        out + rest
    }

    pub(super) fn same_text(self, first: &str, again: &str) -> bool {
        first == again || self.renamed(first, self.first) == self.as_first(again)
    }

    /// The first difference, as its place and both values.
    pub(super) fn difference(self, first: &Value, again: &Value, place: &str) -> Option<String> {
        let inside = |name: &str| if place.is_empty() { name.to_string() } else { format!("{place}.{name}") };
        match (first, again) {
            (Value::Object(one), Value::Object(other)) => {
                let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
                names.filter(|name| !is_measured(name)).find_map(|name| {
                    let null = Value::Null;
                    self.difference(one.get(name).unwrap_or(&null), other.get(name).unwrap_or(&null), &inside(name))
                })
            }
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                one.iter().zip(other).enumerate().find_map(|(i, (one, other))| self.difference(one, other, &format!("{place}[{i}]")))
            }
            (Value::String(one), Value::String(other)) if self.same_text(one, other) => None,
            _ if first == again => None,
            _ => Some(format!("{}: {} and {}", if place.is_empty() { "value" } else { place }, short(first), short(again))),
        }
    }
}

/// Whether a figure is of time or memory, or follows from the files, which are compared themselves.
pub(super) fn is_measured(name: &str) -> bool {
    name.ends_with("seconds")
        || name.ends_with("per_second")
        || name.ends_with("bytes")
        || ["sha256", "ratio", "duration_s"].contains(&name)
}

fn short(value: &Value) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAMES: SessionNames<'_> = SessionNames { first: "a", again: "a-again" };

    #[test]
    fn only_the_whole_name_of_a_session_is_replaced() {
        assert_eq!(NAMES.as_first("runs/a-again/x and a-again2, a-again-merge.gguf"), "a/x and a-again2, a-merge.gguf");
    }

    #[test]
    fn times_and_names_do_not_count_and_everything_else_does() {
        let first = json!({"loss": [1.0, 2.0], "seconds": 1, "model": "runs/a/model", "eta_seconds": 2});
        let again = json!({"loss": [1.0, 2.0], "seconds": 2, "model": "runs/a-again/model"});
        assert_eq!(NAMES.difference(&first, &again, ""), None);
        let moved = json!({"loss": [1.0, 2.0], "model": "/elsewhere/runs/a/model"});
        assert_eq!(NAMES.difference(&moved, &again, ""), None);
        let other = json!({"loss": [1.0, 2.5], "seconds": 2, "model": "runs/a-again/model"});
        assert_eq!(NAMES.difference(&first, &other, "").as_deref(), Some("loss[1]: 2.0 and 2.5"));
        assert_eq!(NAMES.difference(&json!({"a": 1}), &json!({}), "x").as_deref(), Some("x.a: 1 and null"));
        assert_eq!(NAMES.difference(&json!([1]), &json!([1, 2]), "x").as_deref(), Some("x: [1] and [1,2]"));
    }
}
