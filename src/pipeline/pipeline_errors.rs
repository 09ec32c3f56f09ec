//! The errors of a pipeline: all of them at once, each with its line in the file.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;

use anyhow::Result;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::base::error;

/// The lines of a pipeline file's keys, from 1.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyLines {
    /// Keys with the tables above them: `seed`, `step.0` and `step.0.lora_rank`, `for.builtin:tiny.merge`.
    lines: HashMap<Vec<String>, usize>,
}

impl KeyLines {
    /// Those of a file that is valid TOML.
    pub fn of(text: &str) -> KeyLines {
        let mut found = KeyLines::default();
        if let Ok(table) = DeTable::parse(text) {
            found.add(text, &mut Vec::new(), table.get_ref());
        }
        found
    }

    fn add(&mut self, text: &str, above: &mut Vec<String>, table: &DeTable) {
        for (key, value) in table {
            above.push(key.get_ref().to_string());
            self.lines.insert(above.clone(), line_at(text, key.span()));
            match value.get_ref() {
                DeValue::Table(inner) => self.add(text, above, inner),
                DeValue::Array(items) => items.iter().enumerate().for_each(|(i, item)| self.add_item(text, above, i, item)),
                _ => {}
            }
            above.pop();
        }
    }

    fn add_item(&mut self, text: &str, above: &mut Vec<String>, i: usize, item: &Spanned<DeValue>) {
        above.push(i.to_string());
        self.lines.insert(above.clone(), line_at(text, item.span()));
        if let DeValue::Table(inner) = item.get_ref() {
            self.add(text, above, inner);
        }
        above.pop();
    }

    /// The line of a key, given with the tables above it.
    pub fn line(&self, key: &[&str]) -> Option<usize> {
        let key: Vec<String> = key.iter().map(ToString::to_string).collect();
        self.lines.get(&key).copied()
    }

    /// The line of a key for a message: `, line 3`.
    pub fn shown(&self, key: &[&str]) -> String {
        shown(self.line(key))
    }

    /// The line where a step gets a parameter: its own, that for a model, or the one at the top. Without any, that of the step.
    fn of_step(&self, step: (usize, &str), model: &str, param: Option<&str>) -> Option<usize> {
        let (i, name) = (step.0.to_string(), step.1);
        let found = param.and_then(|param| {
            let key = if param == "step" { "name" } else { param };
            self.line(&["step", &i, key]).or_else(|| self.line(&["for", model, name, key])).or_else(|| self.line(&[key]))
        });
        found.or_else(|| self.line(&["step", &i]))
    }
}

/// The line in which a range begins.
pub(super) fn line_at(text: &str, range: Range<usize>) -> usize {
    text.as_bytes()[..range.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Errors, while they are found.
#[derive(Debug)]
pub(super) struct PipelineErrors {
    /// The file, or what else the steps come from.
    source: String,
    lines: KeyLines,
    /// Whose own parameters the steps get.
    model: String,
    /// With the line, by which they are sorted.
    texts: Vec<(Option<usize>, String)>,
}

impl PipelineErrors {
    /// For steps from a source without lines, such as a session's record.
    pub fn new(source: &str) -> PipelineErrors {
        PipelineErrors::in_file(source, KeyLines::default(), "")
    }

    pub fn in_file(file: &str, lines: KeyLines, model: &str) -> PipelineErrors {
        PipelineErrors { source: file.to_string(), lines, model: model.to_string(), texts: Vec::new() }
    }

    /// An error at a key, given with the tables above it.
    pub fn add(&mut self, key: &[&str], text: impl Display) {
        let line = self.lines.line(key);
        self.texts.push((line, format!("{}{}: {text}", self.source, shown(line))));
    }

    /// An error of a step (index and name), at one of its parameters if that is known.
    pub fn add_to_step(&mut self, step: (usize, &str), param: Option<&str>, text: impl Display) {
        let line = self.lines.of_step(step, &self.model, param);
        self.texts.push((line, format!("{}{}, step {}: {text}", self.source, shown(line), step.1)));
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// # Errors
    /// Kind `usage`: there are errors.
    pub fn into_result(mut self) -> Result<()> {
        self.texts.sort_by_key(|(line, _)| *line);
        let texts: Vec<String> = self.texts.into_iter().map(|(_, text)| text).collect();
        if texts.is_empty() { Ok(()) } else { Err(error::usage(texts.join("\n"))) }
    }
}

fn shown(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_every_kind_of_table() {
        let text = "model = 'm'\nseed = 1\n[for.'builtin:tiny'.merge]\nseed = 2\n\n[[step]]\ntask = 'merge'\n[[step]]\ntask = 'flatten'\nname = 'x'\n";
        let lines = KeyLines::of(text);
        for (key, line) in [
            (&["seed"][..], Some(2)),
            (&["for", "builtin:tiny", "merge", "seed"], Some(4)),
            (&["step", "1", "task"], Some(9)),
            (&["step", "2"], None),
        ] {
            assert_eq!(lines.line(key), line, "{key:?}");
        }
        for (step, model, param, line) in [
            ((0, "merge"), "builtin:tiny", Some("seed"), 4),
            ((0, "merge"), "m", Some("seed"), 2),
            ((1, "x"), "m", Some("step"), 10),
            ((1, "x"), "m", Some("lora_rank"), 8),
        ] {
            assert_eq!(lines.of_step(step, model, param), Some(line), "{param:?}");
        }
    }
}
