//! Reads a file of conversations: a JSON list, or JSON lines. Every fault is named with line, column and path.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use serde_json::value::RawValue;

use super::conversation::{self, Problem};
use crate::{error, interrupt};

/// Faults shown in one message.
const SHOWN: usize = 20;

/// The conversations of a file, each an object with `messages` and whatever else stood there.
///
/// # Errors
/// Kind `input`: no such file, not UTF-8, not JSON, not a list, or conversations that nothing can be learned from.
pub fn read_conversations(path: &Path) -> Result<Vec<Value>> {
    let name = path.display();
    if path.exists() && !path.is_file() {
        let what = if path.is_dir() { "a folder" } else { "no regular file" };
        return Err(error::input(format!("data set {name} is {what}; give a JSON file")));
    }
    let bytes = fs::read(path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => error::input(format!(
            "there is no data set {name} (looked in {}); check the path",
            std::env::current_dir().unwrap_or_default().display()
        )),
        _ => error::input(format!("data set {name} cannot be read: {cause}")),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|cause| {
        let line = 1 + bytes[..cause.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        error::input(format!("{name}: line {line}: not UTF-8; save the file as UTF-8"))
    })?;
    // Offsets count from the text's beginning, so a byte order mark is stepped over, not cut off.
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let raws = items(body, text).map_err(|problem| error::input(format!("{name}: {problem}")))?;
    if raws.is_empty() {
        return Err(error::input(format!("{name} holds no conversations; it must be a list of {{\"messages\": [...]}}")));
    }
    let mut problems = Vec::new();
    let mut conversations = Vec::with_capacity(raws.len());
    for (index, raw) in raws.iter().enumerate() {
        interrupt::check()?;
        conversation::check(index, raw.get(), text, &mut problems);
        if problems.is_empty() {
            match serde_json::from_str(raw.get()) {
                Ok(conversation) => conversations.push(conversation),
                Err(cause) => problems.push(conversation::unreadable(index, raw.get(), text, &cause)),
            }
        }
    }
    if problems.is_empty() { Ok(conversations) } else { Err(error::input(report(&name.to_string(), &problems))) }
}

/// The conversations' own texts, still within `text`.
fn items<'a>(body: &'a str, text: &str) -> Result<Vec<&'a RawValue>, String> {
    let start = body.len() - body.trim_start().len();
    match body.as_bytes().get(start) {
        None => Ok(Vec::new()),
        Some(b'[') => serde_json::from_str(body).map_err(|cause| syntax(body, text, &cause)),
        // JSON lines; an object may span lines.
        Some(b'{') => {
            let objects = serde_json::Deserializer::from_str(body).into_iter::<&RawValue>().collect::<Result<Vec<_>, _>>();
            let objects = objects.map_err(|cause| syntax(body, text, &cause))?;
            match objects.as_slice() {
                [one] if !one.get().contains("\"messages\"") => {
                    Err("line 1: the file is one object, not a list; write [{\"messages\": [...]}, ...]".into())
                }
                _ => Ok(objects),
            }
        }
        Some(_) => match serde_json::from_str::<Value>(body) {
            Ok(value) => Err(format!("line 1: the file holds {}, not a list of conversations", conversation::sort_of(&value))),
            Err(cause) => Err(syntax(body, text, &cause)),
        },
    }
}

fn syntax(body: &str, text: &str, cause: &serde_json::Error) -> String {
    // serde_json says "at line 1 column 2" in the end; a place first reads better.
    let words = cause.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    let bom = usize::from(body.len() != text.len() && cause.line() == 1);
    format!("line {}, column {}: invalid JSON: {words}", cause.line(), cause.column() + bom)
}

fn report(name: &str, problems: &[Problem]) -> String {
    if let [only] = problems {
        return format!("{name}: {only}");
    }
    let mut lines = vec![format!("{name}: {} problems", problems.len())];
    lines.extend(problems.iter().take(SHOWN).map(|problem| format!("  {problem}")));
    if problems.len() > SHOWN {
        lines.push(format!("  … and {} more", problems.len() - SHOWN));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Value>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.json");
        fs::write(&path, text).unwrap();
        read_conversations(&path).map_err(|error| error.to_string())
    }

    const GOOD: &str = r#"{"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "好"}], "id": 7}"#;

    #[test]
    fn lists_lines_and_byte_order_marks() {
        for text in [format!("[{GOOD}, {GOOD}]"), format!("{GOOD}\n{GOOD}\n"), format!("\u{feff}[{GOOD},\n{GOOD}]")] {
            let conversations = read(&text).unwrap();
            assert_eq!(conversations.len(), 2);
            assert_eq!(conversations[1]["messages"][1]["content"], "好");
            assert_eq!(conversations[1]["id"], 7);
        }
    }

    #[test]
    fn what_is_wrong_and_where() {
        let message = |role: &str, content: &str| {
            format!(r#"[{{"messages": [{{"role": "user", "content": "x"}},{}{{"role": {role}, "content": {content}}}]}}]"#, "\n")
        };
        for (text, wanted) in [
            ("[{]".to_string(), "line 1, column 3: invalid JSON"),
            ("[\n{\"messages\": 1,}]".to_string(), "line 2, column 16: invalid JSON"),
            ("5".to_string(), "not a list"),
            ("{\"a\": 1}".to_string(), "not a list"),
            ("[]".to_string(), "no conversations"),
            (String::new(), "no conversations"),
            (message("\"human\"", "\"y\""), "line 2, column 10, [0].messages[1].role: unknown role \"human\""),
            (message("\"assistant\"", "\"  \""), "line 2, column 34, [0].messages[1].content: is empty"),
            (message("\"assistant\"", "5"), "[0].messages[1].content: must be a text, not a number"),
            (message("\"user\"", "\"y\""), "[0]: has no assistant turn"),
            ("[{\"messages\": []}]".to_string(), "[0].messages: is empty"),
            ("[{\"text\": \"x\"}]".to_string(), "[0]: has no \"messages\""),
            ("[5]".to_string(), "[0]: must be an object"),
            (message("\"assistant\"", "\"\\ud800\""), "lone \\ud800"),
            (message("\"assistant\", \"x\": 1e999999", "\"y\""), "line 1, column 2, [0]: cannot be read: number out of range"),
            (message(&format!("\"assistant\", \"x\": {}1{}", "[".repeat(500), "]".repeat(500)), "\"y\""), "recursion limit"),
        ] {
            let got = read(&text).expect_err(&text);
            assert!(got.contains(wanted), "{text}\n  gave {got}\n  not  {wanted}");
        }
    }

    #[test]
    fn all_faults_are_listed_up_to_a_limit() {
        let bad = vec!["{\"messages\": 1}"; 30].join(",\n");
        let got = read(&format!("[{GOOD},\n{bad}]")).unwrap_err();
        assert!(got.contains("30 problems") && !got.contains("line 31") && got.contains("line 21") && got.contains("10 more"), "{got}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[\\[\\]{}\",:a-z0-9\\\\\n é]{0,80}") {
            let _ = read(&text);
        }
    }
}
