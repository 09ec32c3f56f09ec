//! Prompts for inference: strings, conversations, or a file of either, checked by the rules of data sets.
//!
//! A string is a single user message. A conversation is a list of messages, or an object in any format of data sets, whose tools, documents
//! and template variables are kept. If the last message is the assistant's, it is the expected answer and kept apart; `train` is removed
//! too. Then the last message must be a user or tool message.
//!
//! A file named .txt has one prompt per line. Any other file is a table or JSON: a list of prompts, JSON lines, or a single conversation.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::error;
use crate::base::error::did_you_mean;
use crate::base::similar_path::or_similar;
use crate::data::parse::columns::Layout;
use crate::data::parse::conversation::{ChatMessage, Conversation, Role, SampleKind};
use crate::data::parse::dataset_format::{DatasetFormat, Detected};
use crate::data::parse::diagnostic::read_object;
use crate::data::parse::item::Item;
use crate::data::parse::item_keys::QUESTIONS;
use crate::data::parse::json::{JsonObject, array_elements, check_value};
use crate::data::parse::json_error::{describe, error_offset, is_truncated, message_without_position};
use crate::data::parse::messages::{read_content, read_messages};
use crate::data::parse::problem_collector::ProblemCollector;
use crate::data::parse::remarks::Remarks;
use crate::data::read::reader::moved;
use crate::data::read::source;

/// Faults listed in one error message.
const SHOWN: usize = 20;

/// The line boundaries of Python's `str.splitlines`.
const LINE_ENDS: [char; 10] = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];

/// A conversation to answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReadPrompt {
    /// An object with the messages before the answer, and the other inputs of the chat template.
    pub conversation: Value,
    /// The answer that it ended with, if it is text.
    pub expected: Option<String>,
}

impl ReadPrompt {
    fn new(conversation: &Conversation, answer: Option<ChatMessage>) -> ReadPrompt {
        let expected = answer.filter(|answer| !answer.has_tool_calls()).map(|answer| answer.content);
        ReadPrompt { conversation: conversation.to_value(), expected }
    }
}

/// The conversations to answer: those of `given`, a list as JSON, then those of the file.
///
/// # Errors
/// Kind `input`: there are no prompts, the file cannot be read, or a prompt is invalid; the message names file, place, cause and fix.
pub fn read_prompts(given: &str, file: Option<&Path>) -> Result<Vec<ReadPrompt>> {
    let mut prompts = Prompts::default();
    let items: Vec<&RawValue> =
        serde_json::from_str(given).map_err(|cause| error::input(format!("the prompts are not a JSON list: {cause}")))?;
    for (i, item) in items.into_iter().enumerate() {
        prompts.add(item, &format!("prompt {i}"), &|_, path| path.to_string());
    }
    match file {
        Some(path) => add_file(&mut prompts, path)?,
        None if prompts.read.is_empty() && prompts.faults.is_empty() => {
            return Err(error::input("there is nothing to answer: give prompt (it may repeat) or prompts_file"));
        }
        None => {}
    }
    prompts.into_result()
}

/// The prompts read so far, and the faults, each with its place.
#[derive(Default)]
struct Prompts {
    read: Vec<ReadPrompt>,
    faults: Vec<String>,
}

impl Prompts {
    /// Adds one prompt. `locate` formats the place of an error from an offset in `item` and a path below `root`.
    fn add(&mut self, item: &RawValue, root: &str, locate: &dyn Fn(usize, &str) -> String) {
        let text = item.get();
        let mut found = Vec::new();
        let mut tell = |at: usize, path: String, what: String| found.push((at, format!("{}: {what}", locate(at, &path))));
        let mut faults = ProblemCollector { item: text, tell: &mut tell, count: 0 };
        check_value(text, root, 0, &mut |at, path, what| faults.add(at, path, what));
        let conversation = conversation(item, root, &mut faults);
        if let (Some((conversation, answer)), 0) = (conversation, faults.count) {
            self.read.push(ReadPrompt::new(&conversation, answer));
        }
        found.sort_by_key(|(at, _)| *at);
        self.faults.extend(found.into_iter().map(|(_, fault)| fault));
    }

    fn into_result(self) -> Result<Vec<ReadPrompt>> {
        match self.faults.as_slice() {
            [] => Ok(self.read),
            [only] => Err(error::input(only)),
            faults => {
                let shown: String = faults.iter().take(SHOWN).map(|fault| format!("\n  {fault}")).collect();
                let more = if faults.len() > SHOWN { format!("\n  and {} more", faults.len() - SHOWN) } else { String::new() };
                Err(error::input(format!("the prompts have {} faults:{shown}{more}", faults.len())))
            }
        }
    }
}

/// A prompt without the answer, and the answer. Faults are added to `faults`.
fn conversation(item: &RawValue, path: &str, faults: &mut ProblemCollector) -> Option<(Conversation, Option<ChatMessage>)> {
    let text = item.get();
    let mut read = match JsonObject::parse(text) {
        Some(members) => object(members, text, path, faults)?,
        None => Conversation { messages: turns(item, path, faults)?, ..Conversation::default() },
    };
    let answer = read.messages.pop_if(|last| last.role == Role::Assistant);
    if read.kind == SampleKind::PlainText || !read.messages.last().is_some_and(|last| matches!(last.role, Role::User | Role::Tool)) {
        let what = "there is nothing to answer; the last message, or the last before the answer, must be a user or tool message";
        faults.add(text, path, what);
    }
    for message in &mut read.messages {
        message.train = true;
    }
    Some((read, answer))
}

/// An object in any format of data sets. The answer may be missing.
fn object(members: JsonObject, text: &str, path: &str, faults: &mut ProblemCollector) -> Option<Conversation> {
    let layout = Layout::default();
    let format = match DatasetFormat::detect(text.as_bytes(), &layout) {
        Detected::Format(format) => format,
        Detected::Refused(what) => {
            faults.add(text, path, what);
            return None;
        }
        Detected::Unknown(keys) if keys.iter().any(|key| QUESTIONS.contains(&key.as_str())) => DatasetFormat::QuestionAnswer,
        Detected::Unknown(_) | Detected::Other => {
            let near = did_you_mean("messages", members.names()).map(|near| format!("; is {near:?} misspelled?")).unwrap_or_default();
            faults.add(text, path, format!("has no \"messages\"; write {{\"messages\": [...]}} or a string{near}"));
            return None;
        }
    };
    read_object(&Item::new(members, text, path, &layout), format, false, faults)
}

/// A string, or a list of messages.
fn turns(raw: &RawValue, path: &str, faults: &mut ProblemCollector) -> Option<Vec<ChatMessage>> {
    match raw.get().as_bytes().first() {
        Some(b'"') => Some(vec![ChatMessage::new(Role::User, read_content(raw, path, false, faults))]),
        Some(b'[') if array_elements(raw.get()).is_some_and(|list| list.is_empty()) => Some(Vec::new()),
        Some(b'[') => read_messages(raw, path, false, faults, &mut Remarks::default()),
        _ => {
            faults.must_be("a string or a conversation (a list of messages)", raw, path);
            None
        }
    }
}

fn add_file(prompts: &mut Prompts, path: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    let mut opened = source::open(path, &Arc::default()).map_err(|cause| unreadable(path, &cause))?;
    let table = opened.is_table;
    opened.text.read_to_end(&mut bytes).map_err(|cause| unreadable(path, &cause))?;
    let text = std::str::from_utf8(&bytes).map_err(|cause| {
        let (line, _) = position(&bytes, cause.valid_up_to());
        error::input(format!("{}: line {line}: not UTF-8; save the file as UTF-8", path.display()))
    })?;
    let before = prompts.read.len() + prompts.faults.len();
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
        let lines = text.split(LINE_ENDS).filter(|line| !line.trim().is_empty());
        let one = |line: &str| Conversation { messages: vec![ChatMessage::new(Role::User, line.into())], ..Conversation::default() };
        prompts.read.extend(lines.map(|line| ReadPrompt::new(&one(line), None)));
    } else {
        add_json(prompts, text, path, table)?;
    }
    if prompts.read.len() + prompts.faults.len() == before {
        return Err(error::input(format!("{} has no prompts; write a JSON list of strings or conversations", path.display())));
    }
    Ok(())
}

fn unreadable(path: &Path, cause: &std::io::Error) -> anyhow::Error {
    if cause.kind() == std::io::ErrorKind::NotFound {
        let folder = std::env::current_dir().unwrap_or_default();
        let fix = or_similar(path, &|path| path.is_file(), "check prompts_file");
        return error::input(format!("the prompts file {} does not exist (current folder: {}); {fix}", path.display(), folder.display()));
    }
    error::input(format!("the prompts file {} cannot be read: {cause}; check the path and its permissions", path.display()))
}

/// Adds the prompts of a JSON list, or of several JSON values (JSON lines).
fn add_json(prompts: &mut Prompts, text: &str, path: &Path, table: bool) -> Result<()> {
    let values = values(text, path)?;
    let mut add = |item: &RawValue, root: &str| {
        let begins = item.get().as_ptr() as usize - text.as_ptr() as usize;
        prompts.add(item, root, &|at, place| {
            let (line, column) = position(text.as_bytes(), begins + at);
            let place = place.trim_start_matches('.');
            let comma = if place.is_empty() { "" } else { ", " };
            let column = if table { String::new() } else { format!(", column {column}") };
            format!("{}: line {line}{column}{comma}{place}", path.display())
        });
    };
    let has_role = |item: &&RawValue| JsonObject::parse(item.get()).is_some_and(|members| members.get("role").is_some());
    match values.as_slice() {
        [only] => match array_elements(only.get()) {
            Some(items) if items.is_empty() || !items.iter().all(has_role) => {
                items.into_iter().enumerate().for_each(|(i, item)| add(item, &format!("[{i}]")));
            }
            // A single conversation, or a single prompt that is not a list.
            _ => add(only, ""),
        },
        several => several.iter().enumerate().for_each(|(i, item)| add(item, &format!("[{i}]"))),
    }
    Ok(())
}

/// The JSON values of a file, borrowed from its text.
fn values<'a>(text: &'a str, path: &Path) -> Result<Vec<&'a RawValue>> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let mut values = Vec::new();
    loop {
        let begins = stream.byte_offset();
        match stream.next() {
            None => return Ok(values),
            Some(Ok(value)) => values.push(value),
            Some(Err(cause)) => {
                // Only serde_json's parser of `Value` limits the depth.
                if serde_json::from_str::<Value>(&text[begins..])
                    .is_err_and(|cause| message_without_position(&cause).contains("recursion limit"))
                {
                    let what = "the JSON is nested too deeply; a prompt must be a string or a conversation";
                    return Err(error::input(format!("{}: {what}", path.display())));
                }
                let at = error_offset(text.as_bytes(), &cause);
                let (line, column) = position(text.as_bytes(), at);
                let what = describe(text, at, &cause);
                let truncated = if is_truncated(&what) { "; the file is truncated" } else { "" };
                return Err(error::input(format!(
                    "{}: line {line}, column {column}: invalid JSON: {what}{truncated}; fix it, or rename the file to .txt if it has one prompt \
                     per line",
                    path.display()
                )));
            }
        }
    }
}

/// Line, and column in characters, of an offset; both from 1.
fn position(text: &[u8], at: usize) -> (usize, usize) {
    moved((1, 1), &text[..at])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(prompts: &Value) -> Result<Vec<Value>, String> {
        conversations(read_prompts(&prompts.to_string(), None))
    }

    fn conversations(read: Result<Vec<ReadPrompt>>) -> Result<Vec<Value>, String> {
        read.map(|all| all.into_iter().map(|one| one.conversation).collect()).map_err(|error| error.to_string())
    }

    fn file(name: &str, text: &str) -> Result<Vec<Value>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let prefix = format!("{}: ", path.display());
        conversations(read_prompts("[]", Some(&path))).map_err(|error| error.replace(&prefix, ""))
    }

    #[test]
    fn the_answer_and_train_are_removed_and_other_keys_are_kept() {
        let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]);
        let prompts = json!([
            "Hi",
            [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}],
            {"messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "train": false},
                {"role": "user", "content": "c"},
                {"role": "assistant", "tool_calls": call},
                {"role": "tool", "content": "d"}
            ], "tools": []}
        ]);
        let expected = [
            json!({"messages": [{"role": "user", "content": "Hi"}]}),
            json!({"messages": [{"role": "user", "content": "a", "name": "Ann"}]}),
            json!({"messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "", "tool_calls": call},
                {"role": "tool", "content": "d"}
            ]}),
        ];
        assert_eq!(given(&prompts).unwrap(), expected);
        let answers: Vec<_> = read_prompts(&prompts.to_string(), None).unwrap().into_iter().map(|one| one.expected).collect();
        assert_eq!(answers, [None, Some("b".into()), None]);
    }

    #[test]
    fn each_prompt_with_a_fault_is_named() {
        let nothing = "there is nothing to answer; the last message, or the last before the answer, must be a user or tool message";
        for (prompts, wanted) in [
            (json!([]), "there is nothing to answer: give prompt (it may repeat) or prompts_file".to_string()),
            (json!(["a", 5]), "prompt 1: must be a string or a conversation (a list of messages), not a number".into()),
            (json!([" \n"]), "prompt 0: is empty; add text or remove the turn".into()),
            (json!([[]]), format!("prompt 0: {nothing}")),
            (json!([{"messages": [{"role": "assistant", "content": "x"}]}]), format!("prompt 0: {nothing}")),
            (
                json!(["a", [{"role": "human", "content": "x"}]]),
                "prompt 1[0].role: unknown role \"human\"; must be one of system, user, assistant, tool; did you mean \"user\"?".into(),
            ),
            (json!([{"mesages": []}]), "prompt 0: has no \"messages\"; write {\"messages\": [...]} or a string; is \"mesages\" misspelled?".into()),
            (json!([5, null]), "the prompts have 2 faults:\n  prompt 0: must be a string or a conversation (a list of messages), not a number\n  prompt 1: must be a string or a conversation (a list of messages), not null".into()),
        ] {
            assert_eq!(given(&prompts).unwrap_err(), wanted);
        }
        let half = read_prompts(r#"["\ud800"]"#, None).unwrap_err().to_string();
        assert_eq!(half, "prompt 0: has an unpaired surrogate (\\ud800 to \\udfff); write the whole pair");
    }

    #[test]
    fn a_file_s_faults_are_named_by_line_column_and_path() {
        for (name, text, wanted) in [
            (
                "a.json",
                "[\"é\",\n [{\"role\": \"user\", \"content\": 5}]]",
                "line 2, column 31, [1][0].content: must be a string, not a number",
            ),
            ("a.json", "[{\"role\": \"user\"}]", "line 1, column 2, [0]: has no \"content\""),
            ("a.json", "{\"messages\": 5}", "line 1, column 14, messages: must be a list of messages"),
            ("a.jsonl", "\"a\"\n7\n", "line 2, column 1, [1]: must be a string or a conversation (a list of messages), not a number"),
            (
                "a.json",
                "[\"a\",]",
                "line 1, column 6: invalid JSON: trailing comma; remove it; fix it, or rename the file to .txt if it has one prompt per line",
            ),
        ] {
            assert_eq!(file(name, text).unwrap_err(), wanted);
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(file("a.json", &deep).unwrap_err().contains("reduce the nesting"));
        assert!(file("a.json", &deep[..200]).unwrap_err().contains("nested too deeply"));
    }

    #[test]
    fn a_text_file_has_a_prompt_in_each_line() {
        let all = file("a.TXT", "\u{feff}one\r\n\r\n  \u{2028} two \n").unwrap();
        assert_eq!(all, ["one", " two "].map(|text| json!({"messages": [{"role": "user", "content": text}]})));
    }
}
