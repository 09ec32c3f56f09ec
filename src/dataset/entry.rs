//! One entry of `dataset_path`: a path with options, `a.jsonl::weight=0.5,max_rows=1000`. A table `{path, weight, max_rows}` becomes the same
//! text in `params/param_type.rs`.

use std::path::Path;

use anyhow::Result;

use crate::base::error;
use crate::base::error::did_you_mean;

/// Options of an entry.
const OPTIONS: [&str; 5] = ["weight", "max_rows", "split", "name", "revision"];

/// An entry of `dataset_path`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub path: String,
    pub weight: f64,
    pub max_rows: Option<usize>,
    /// Of a data set with several: in a folder of the `datasets` library or on the hub.
    pub split: Option<String>,
    /// Configuration and revision of a data set on the hub.
    pub name: Option<String>,
    pub revision: Option<String>,
}

impl Entry {
    /// # Errors
    /// Kind `usage`: an unknown option, or a value out of bounds.
    pub(crate) fn parse(text: &str) -> Result<Entry> {
        let mut entry = Entry { path: text.to_string(), weight: 1.0, max_rows: None, split: None, name: None, revision: None };
        // A file of exactly this name is meant itself.
        let Some((path, options)) = text.rsplit_once("::").filter(|(_, options)| options.contains('=') && !Path::new(text).exists()) else {
            return Ok(entry);
        };
        entry.path = path.to_string();
        for option in options.split(',') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let (name, value) = (name.trim(), value.trim());
            let wrong = |what: &str| error::usage(format!("data set {path}: {name} must be {what}, not {value:?}"));
            match name {
                "weight" => {
                    let weight = value.parse::<f64>().ok().filter(|weight| (0.0..=1000.0).contains(weight));
                    entry.weight = weight.ok_or_else(|| wrong("a number from 0 to 1000"))?;
                }
                "max_rows" => {
                    let rows = value.parse::<usize>().ok().filter(|rows| *rows > 0);
                    entry.max_rows = Some(rows.ok_or_else(|| wrong("an integer of at least 1"))?);
                }
                "split" | "name" | "revision" if value.is_empty() => return Err(wrong("a name")),
                "split" => entry.split = Some(value.to_string()),
                "name" => entry.name = Some(value.to_string()),
                "revision" => entry.revision = Some(value.to_string()),
                _ => {
                    let near = did_you_mean(name, OPTIONS).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                    return Err(error::usage(format!(
                        "data set {path} has no option {name:?}; the options after :: are {}{near}",
                        OPTIONS.join(", ")
                    )));
                }
            }
        }
        Ok(entry)
    }

    /// The text of an entry with this revision.
    pub(crate) fn at_revision(text: &str, revision: &str) -> String {
        let (path, options) = text.rsplit_once("::").filter(|(_, options)| options.contains('=')).unwrap_or((text, ""));
        let others = options.split(',').filter(|option| !option.is_empty() && !option.trim_start().starts_with("revision"));
        let others = others.fold(path.to_string(), |text, option| Entry::with_option(&text, option));
        Entry::with_option(&others, &format!("revision={revision}"))
    }

    /// The text of an entry with one more option.
    pub(crate) fn with_option(text: &str, option: &str) -> String {
        let has_options = text.rsplit_once("::").is_some_and(|(_, options)| options.contains('='));
        format!("{text}{}{option}", if has_options { "," } else { "::" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_two_colons() {
        let entry = Entry::parse("a.jsonl::weight=0.5,max_rows=1000").unwrap();
        assert_eq!((entry.path.as_str(), entry.weight, entry.max_rows), ("a.jsonl", 0.5, Some(1000)));
        assert_eq!(Entry::parse("org/name::split=test,name=en").unwrap().split.as_deref(), Some("test"));
        assert_eq!(Entry::at_revision("org/name", "abc"), "org/name::revision=abc");
        assert_eq!(Entry::at_revision("org/name::revision=main,split=test", "abc"), "org/name::split=test,revision=abc");
        assert_eq!(Entry::parse("a::b.json").unwrap().path, "a::b.json");
        for (text, wanted) in [
            (
                "a.jsonl::weigth=2",
                "has no option \"weigth\"; the options after :: are weight, max_rows, split, name, revision; did you mean weight?",
            ),
            ("a.jsonl::weight=-1", "weight must be a number from 0 to 1000, not \"-1\""),
            ("a.jsonl::weight=NaN", "weight must be a number from 0 to 1000"),
            ("a.jsonl::max_rows=0", "max_rows must be an integer of at least 1"),
        ] {
            let error = Entry::parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
