//! Whether something is trained on: `train` (true or false), `loss` (true or false, ms-swift) or `weight` (0 or 1, OpenAI).

use serde_json::value::RawValue;

use crate::data::parse::item_keys::{TRAIN_NAMES, train_misspelled};
use crate::data::parse::json::{JsonObject, join_path};
use crate::data::parse::problem_collector::ProblemCollector;

/// The flag that an object has, if any. Misspelled names, other values and contradictions are problems.
pub(crate) fn read_train(object: &JsonObject, path: &str, problems: &mut ProblemCollector) -> Option<bool> {
    let mut given: Option<(&str, bool)> = None;
    for (key, raw) in &object.0 {
        let key = &*key.0;
        if raw.get() == "null" {
            continue;
        }
        if !TRAIN_NAMES.contains(&key) {
            let is_flag = matches!(raw.get().as_bytes().first(), Some(b't' | b'f' | b'-' | b'0'..=b'9'));
            if let Some(what) = train_misspelled(key, is_flag) {
                problems.add(raw.get(), join_path(path, key), what);
            }
            continue;
        }
        let Some(value) = value(key, raw, &join_path(path, key), problems) else { continue };
        match given {
            Some((other, before)) if before != value => {
                problems.add(raw.get(), join_path(path, key), format!("contradicts {other:?}; keep one of them"));
            }
            _ => given = Some((key, value)),
        }
    }
    given.map(|(_, value)| value)
}

fn value(key: &str, raw: &RawValue, path: &str, problems: &mut ProblemCollector) -> Option<bool> {
    match raw.get() {
        "true" if key != "weight" => Some(true),
        "false" if key != "weight" => Some(false),
        text if key != "train" && number(text).is_some() => match number(text) {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => {
                let fix = "0 leaves it out of training, 1 trains on it; other weights are not supported";
                problems.add(raw.get(), path, format!("must be 0 or 1, not {text}: {fix}"));
                None
            }
        },
        _ => {
            problems.must_be(if key == "weight" { "0 or 1" } else { "true or false" }, raw, path);
            None
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|_| !text.starts_with(['t', 'f', 'n', '"', '[', '{', 'i']))
}
