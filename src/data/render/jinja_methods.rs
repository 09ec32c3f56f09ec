//! Python's behaviour that Jinja templates rely on: `str()` of values, JSON, methods of strings.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::data::render::template_limits::{MAX_DEPTH, MAX_INDENT, MAX_JSON, over_limit};

/// Python's `str(value)`; `None` for a string, which stays unchanged.
///
/// # Errors
/// For lists and mappings: their `repr` is not implemented.
pub(crate) fn text(value: &Value) -> Result<Option<String>, Error> {
    Ok(Some(match value.kind() {
        ValueKind::String => return Ok(None),
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value),
        kind => return Err(unsupported(format!("a {kind} is printed"))),
    }))
}

/// An error after which transformers renders.
fn unsupported(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// Python's `repr(float)`: the shortest digits that parse to the same number; with an exponent below 1e-4 and from 1e16.
pub(crate) fn float(x: f64) -> String {
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        let text = format!("{x}");
        return if text.contains('.') { text } else { text + ".0" };
    }
    let text = format!("{x:e}");
    match text.split_once('e') {
        // The exponent has a sign and at least two digits.
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

/// The options of Python's `json.dumps` that transformers' `tojson` accepts.
pub(crate) struct JsonOptions {
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl JsonOptions {
    pub(crate) fn of(options: &Kwargs) -> Result<JsonOptions, Error> {
        let indent: Option<Value> = options.get("indent")?;
        let indent = match indent.filter(|indent| !indent.is_none()) {
            None => None,
            Some(indent) => Some(match indent.as_str() {
                Some(text) => text.to_string(),
                None => match usize::try_from(indent.clone()) {
                    Ok(count) if count <= MAX_INDENT => " ".repeat(count),
                    _ => return Err(over_limit(format!("indents JSON by {indent}; the limit is {MAX_INDENT}"))),
                },
            }),
        };
        let separators: Option<Value> = options.get("separators")?;
        let (item_separator, key_separator) = match separators.filter(|pair| !pair.is_none()) {
            Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
            None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        };
        Ok(JsonOptions {
            indent,
            item_separator,
            key_separator,
            sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
            ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        })
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, ...)`.
pub(crate) fn json(value: &Value, options: &JsonOptions) -> Result<String, Error> {
    let mut out = String::new();
    write_json(value, options, 0, &mut out)?;
    Ok(out)
}

fn write_json(value: &Value, options: &JsonOptions, depth: usize, out: &mut String) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = &options.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    if depth > MAX_DEPTH {
        return Err(over_limit(format!("writes JSON with more than {MAX_DEPTH} levels")));
    }
    if out.len() > MAX_JSON {
        return Err(over_limit(format!("writes JSON of more than {MAX_JSON} bytes")));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), options.ensure_ascii, out),
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if options.sort_keys {
                keys.sort();
            }
            out.push('{');
            for (i, key) in keys.iter().enumerate() {
                if i > 0 {
                    out.push_str(&options.item_separator);
                }
                line(depth + 1, out);
                let Some(name) = key.as_str() else { return Err(unsupported("a mapping has a key that is not a string".into())) };
                write_string(name, options.ensure_ascii, out);
                out.push_str(&options.key_separator);
                write_json(&value.get_item(key)?, options, depth + 1, out)?;
            }
            if !keys.is_empty() {
                line(depth, out);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                if !empty {
                    out.push_str(&options.item_separator);
                }
                empty = false;
                line(depth + 1, out);
                write_json(&item, options, depth + 1, out)?;
            }
            if !empty {
                line(depth, out);
            }
            out.push(']');
        }
        kind => return Err(unsupported(format!("{kind} as JSON"))),
    }
    Ok(())
}

fn write_string(text: &str, ensure_ascii: bool, out: &mut String) {
    use std::fmt::Write;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if ensure_ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Python's `str.isspace`: Unicode's white space, and the four separators of ASCII.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `strip`, `lstrip`, `rstrip`.
pub(crate) fn strip<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let wanted = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if left { text.trim_start_matches(wanted) } else { text };
    if right { text.trim_end_matches(wanted) } else { text }
}

/// Methods of Python's types.
pub(crate) fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let (left, right) = (name == "lstrip" || name == "strip", name == "rstrip" || name == "strip");
        if left || right {
            let characters = arguments.first().filter(|argument| !argument.is_none()).map(ToString::to_string);
            return Ok(Value::from(strip(text, characters.as_deref(), left, right)));
        }
        if name == "split" && arguments.is_empty() && text.contains(['\u{1c}', '\u{1d}', '\u{1e}', '\u{1f}']) {
            return Err(unsupported("split() of a string with ASCII separators".into()));
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        // Results of `repr` in CPython 3.11.
        for (x, wanted) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-7, "1e-07"),
            (1.5e-5, "1.5e-05"),
            (1e-4, "0.0001"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (-0.0, "-0.0"),
            (1e100, "1e+100"),
        ] {
            assert_eq!(float(x), wanted);
        }
    }
}
