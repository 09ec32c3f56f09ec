//! Some answers of the steps that asked a model.

use serde_json::{Value, json};

use crate::base::numbers::grouped;
use crate::report::recorded::RecordedStep;

/// The first answers of a step. `None` if it has none.
pub(crate) fn answers(step: &RecordedStep, number: usize) -> Option<Value> {
    let result = step.summary.as_ref()?.result.as_array()?;
    let all: Vec<&Value> = result.iter().filter(|one| one["text"].is_string()).collect();
    if all.is_empty() || number == 0 {
        return None;
    }
    let shown: Vec<Value> = all.iter().take(number).map(|one| answer(one)).collect();
    let count = |name: &str| step.count(name);
    let matching = count("expected_answers").filter(|expected| *expected > 0).zip(count("matching_answers"));
    Some(json!({
        "step": step.state.step,
        "model": step.model(),
        "shown": shown,
        "more": grouped((all.len() - shown.len()) as u64),
        "has_more": all.len() > shown.len(),
        "matching": matching.map(|(expected, matching)| format!("{} of {} answers are exactly as expected.", grouped(matching), grouped(expected))),
    }))
}

fn answer(one: &Value) -> Value {
    let messages = one["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = messages.iter().rev().find(|message| message["role"] == "user").or(messages.last());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
    json!({
        "prompt": last.map(|message| text(&message["content"])),
        "earlier": messages.len().saturating_sub(1),
        "text": one["text"],
        "ended": one["finish_reason"] != "length",
    })
}
