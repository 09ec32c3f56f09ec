//! Whether two runs made the same files: weights by their bytes, JSON and text apart from the names of the two sessions.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::base::signals;
use crate::gguf::GgufReader;
use crate::pipeline::reproduce::values::SessionNames;

/// Bytes that are compared at once.
const BLOCK: usize = 1 << 20;
/// A larger file that is not the same byte by byte is not read as text.
const MAX_TEXT: u64 = 1 << 28;

/// What differs between the file or folder `first` and its repetition. `None`: nothing.
///
/// # Errors
/// Kind `io` if a file cannot be read, `interrupted` after Ctrl-C.
pub(super) fn difference(names: SessionNames<'_>, first: &Path, again: &Path) -> Result<Option<String>> {
    let (one, other) = (files_of(first)?, files_of(again)?);
    // The repetition's files have its session's name where the first ones have theirs.
    let other: BTreeMap<String, PathBuf> = other.into_iter().map(|(name, path)| (names.as_first(&name), path)).collect();
    if let Some(name) = one.keys().find(|name| !other.contains_key(*name)) {
        return Ok(Some(format!("{name} is missing")));
    }
    if let Some(name) = other.keys().find(|name| !one.contains_key(*name)) {
        return Ok(Some(format!("{name} is new")));
    }
    for (name, first) in &one {
        if let Some(what) = of_files(names, first, &other[name])? {
            return Ok(Some(format!("{name}: {what}")));
        }
    }
    Ok(None)
}

/// The files at or below a path, by their names relative to it; a file by its own name.
fn files_of(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    fn add(folder: &Path, prefix: &str, found: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                add(&entry.path(), &format!("{name}/"), found)?;
            } else {
                found.insert(name, entry.path());
            }
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    if path.is_dir() {
        add(path, "", &mut found).with_context(|| format!("{} cannot be read", path.display()))?;
    } else if path.exists() {
        found.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path.to_path_buf());
    }
    Ok(found)
}

fn of_files(names: SessionNames<'_>, first: &Path, again: &Path) -> Result<Option<String>> {
    if same_bytes(first, again)? {
        return Ok(None);
    }
    if first.extension().is_some_and(|suffix| suffix == "gguf") {
        return of_gguf(names, first, again);
    }
    let small = |path: &Path| fs::metadata(path).is_ok_and(|found| found.len() <= MAX_TEXT);
    if !small(first) || !small(again) {
        return Ok(Some("its bytes differ".into()));
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    let (Ok(one), Ok(other)) = (String::from_utf8(read(first)?), String::from_utf8(read(again)?)) else {
        return Ok(Some("its bytes differ".into()));
    };
    Ok(match (json_lines(&one), json_lines(&other)) {
        (Some(one), Some(other)) => names.difference(&one, &other, ""),
        _ => (!names.same_text(&one, &other)).then(|| "its text differs".into()),
    })
}

/// A JSON document, or JSON Lines as a list.
fn json_lines(text: &str) -> Option<Value> {
    serde_json::from_str(text)
        .ok()
        .or_else(|| text.lines().map(|line| serde_json::from_str(line).ok()).collect::<Option<Vec<Value>>>().map(Value::from))
}

fn of_gguf(names: SessionNames<'_>, first: &Path, again: &Path) -> Result<Option<String>> {
    let (one, other) = (GgufReader::open(first)?, GgufReader::open(again)?);
    if let Some(what) = names.difference(&Value::from(one.keys.clone()), &Value::from(other.keys.clone()), "") {
        return Ok(Some(what));
    }
    if one.tensors.len() != other.tensors.len() {
        return Ok(Some(format!("{} and {} tensors", one.tensors.len(), other.tensors.len())));
    }
    for tensor in &one.tensors {
        signals::check()?;
        let same = other
            .tensor(&tensor.name)
            .is_some_and(|found| found.shape == tensor.shape && found.format == tensor.format && one.bytes(tensor) == other.bytes(found));
        if !same {
            return Ok(Some(format!("tensor {} differs", tensor.name)));
        }
    }
    Ok(None)
}

fn same_bytes(first: &Path, again: &Path) -> Result<bool> {
    let open = |path: &Path| File::open(path).with_context(|| format!("{} cannot be read", path.display()));
    let (one, other) = (open(first)?, open(again)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut left, mut right) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    loop {
        signals::check()?;
        left.clear();
        right.clear();
        let read = one.by_ref().take(BLOCK as u64).read_to_end(&mut left).with_context(|| format!("{} cannot be read", first.display()))?;
        other.by_ref().take(BLOCK as u64).read_to_end(&mut right).with_context(|| format!("{} cannot be read", again.display()))?;
        if left != right {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}
