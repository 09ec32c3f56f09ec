//! How good a step's result is, in a few words.

use serde_json::Value;

use crate::base::numbers::{bytes, counted, grouped, significant};
use crate::session::Summary;

/// Metrics that are the words of [`quality`] themselves.
pub(crate) const IN_QUALITY: [&str; 5] = ["first_loss", "last_loss", "size_bytes", "expected_answers", "matching_answers"];

/// How good a step's result is, in a few words; empty if there is nothing to say.
pub(crate) fn quality(summary: &Summary) -> String {
    let number = |name: &str| summary.metrics.get(name).and_then(Value::as_f64);
    let count = |name: &str| summary.metrics.get(name).and_then(Value::as_u64);
    let mut parts = Vec::new();
    if let Some(last) = number("last_loss") {
        let first = number("first_loss").map(significant).filter(|first| *first != significant(last)).map(|first| format!("{first} → "));
        parts.push(format!("loss {}{}", first.unwrap_or_default(), significant(last)));
    }
    if let Some(loss) = number("eval_loss") {
        parts.push(format!("evaluation loss {}", significant(loss)));
    }
    if let Some(steps) = count("steps").filter(|_| summary.metrics.get("stopped_early") == Some(&Value::Bool(true))) {
        parts.push(format!("stopped early at step {}", grouped(steps)));
    }
    match (count("expected_answers"), count("matching_answers"), count("prompts")) {
        (Some(expected), Some(matching), _) if expected > 0 => {
            parts.push(format!("{} of {} answers as expected", grouped(matching), grouped(expected)));
        }
        (_, _, Some(prompts)) => parts.push(counted(count("answers").unwrap_or(prompts), "answer")),
        _ => {}
    }
    match (count("size_before_bytes"), count("size_after_bytes")) {
        (Some(before), Some(after)) => parts.push(format!("{} → {}", bytes(before), bytes(after))),
        _ => {
            let sizes = summary.metrics.iter().filter(|(name, _)| name.starts_with("size_") && name.ends_with("_bytes"));
            parts.extend(sizes.filter_map(|(_, size)| size.as_u64()).map(bytes));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(metrics: Value) -> Summary {
        Summary { metrics: metrics.as_object().cloned().unwrap(), ..Summary::new("any", "s1", "tune") }
    }

    #[test]
    fn the_quality_is_what_the_task_measures() {
        for (metrics, words) in [
            (json!({"first_loss": 7.0312, "last_loss": 0.018_610_96, "zero": 0}), "loss 7.031 → 0.01861"),
            (
                json!({"last_loss": 0.5, "eval_loss": 1.0, "steps": 1200, "stopped_early": true}),
                "loss 0.5, evaluation loss 1, stopped early at step 1,200",
            ),
            (json!({"prompts": 31, "expected_answers": 31, "matching_answers": 30}), "30 of 31 answers as expected"),
            (json!({"prompts": 1, "expected_answers": 0, "matching_answers": 0}), "1 answer"),
            (json!({"size_before_bytes": 6_000_000, "size_after_bytes": 2_500_000}), "6.0 MB → 2.5 MB"),
            (json!({"size_f16_bytes": 3_000_000, "size_q8_0_bytes": 1_600_000}), "3.0 MB, 1.6 MB"),
        ] {
            assert_eq!(quality(&of(metrics)), words);
        }
    }
}
