//! Tests of the reader, from files to conversations.

mod faults;
mod shapes;
mod streams;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::data::parse::columns::Layout;
use crate::data::parse::dataset_format::DatasetFormat;
use crate::data::read::files::expand;
use crate::data::read::problem::Problems;
use crate::data::read::reader::Reader;
use crate::data::read::size_limits::SizeLimits;
use crate::data::{Conversation, validate_files};

const GOOD: &str = r#"{"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "好"}], "id": 7}"#;

/// Files in a temporary folder.
struct TestFiles {
    _folder: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl TestFiles {
    fn new(contents: &[&[u8]]) -> TestFiles {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..contents.len()).map(|i| folder.path().join(format!("{i}.json"))).collect();
        for (path, content) in paths.iter().zip(contents) {
            fs::write(path, content).unwrap();
        }
        TestFiles { _folder: folder, paths }
    }
}

/// All conversations of a file with these bytes, read in blocks of that size, or the report of its faults.
fn conversations(bytes: &[u8], block: usize) -> Result<Vec<Conversation>, String> {
    let files = TestFiles::new(&[bytes]);
    let sizes = SizeLimits { block, suspicious: 3 * block, item: 1 << 30 };
    let mut reader = Reader::with_sizes(files.paths.clone(), &Layout::default(), sizes).unwrap();
    let (mut all, mut problems) = (Vec::new(), Problems::default());
    while let Some(batch) = reader.next_batch().map_err(|error| error.to_string())? {
        all.extend(batch.conversations(&mut problems));
    }
    problems.into_result(reader.files()).map(|()| all).map_err(|error| error.to_string())
}

fn read(text: &str) -> Result<Vec<Value>, String> {
    let files = TestFiles::new(&[text.as_bytes()]);
    let values = read_conversations(&files.paths[0]).map_err(|error| error.to_string());
    let checked = validate_files(&files.paths, &Layout::default()).map_err(|error| error.to_string());
    assert_eq!(values.as_ref().map(Vec::len), checked.as_ref().map(|count| count.conversations), "the check and the reader count the same");
    values
}

/// The lines of the report, without the file's name.
fn faults(text: &str) -> Vec<String> {
    let report = read(text).expect_err(text);
    let mut lines: Vec<String> = report.lines().map(|line| line.trim().to_string()).collect();
    match lines.as_slice() {
        [one] => vec![one.split_once(".json").unwrap().1.trim_start_matches([':', ' ']).to_string()],
        _ => lines.split_off(1),
    }
}

/// The conversations of a file or a pattern, each an object with `messages` and all other fields of the item.
///
/// # Errors
/// Kind `input`: no such file, not UTF-8, not JSON, not a list, or conversations without anything to train on.
fn read_conversations(path: &Path) -> Result<Vec<Value>> {
    let files = expand(&[path.to_string_lossy()])?;
    let mut reader = Reader::open(files, &Layout::default())?;
    let (mut values, mut problems) = (Vec::new(), Problems::default());
    while let Some(batch) = reader.next_batch()? {
        for conversation in batch.conversations(&mut problems) {
            if !problems.is_empty() {
                break;
            }
            let mut value = conversation.to_value();
            if batch.format() == DatasetFormat::Messages
                && let Some(item) = batch.items().nth(conversation.index - batch.first_index())
                && let Ok(Value::Object(mut whole)) = serde_json::from_slice(item)
            {
                whole.insert("messages".into(), value["messages"].take());
                value = Value::Object(whole);
            }
            values.push(value);
        }
    }
    problems.into_result(reader.files()).map(|()| values)
}
