//! What a step's end says: what it made, how good it is, and the next command to try.

use std::path::Path;

use serde_json::Value;

use crate::cli::output::plain_list;
use crate::cli::text::{bytes, counted, grouped, significant};
use crate::session::{Status, Summary};

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
        (_, _, Some(prompts)) => parts.push(counted(prompts, "answer")),
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

/// The command that shows what the step made; none if it made nothing to try. `runs`: the folder of all sessions, `named` if the user
/// named it.
pub(crate) fn next_command(summary: &Summary, runs: &Path, named: bool) -> Option<String> {
    if summary.status != Status::Success {
        return None;
    }
    let made = format!("{}/{}", summary.session, summary.step);
    let runs_dir = if named { format!(" --runs-dir {}", quoted(&runs.to_string_lossy())) } else { String::new() };
    match summary.task.as_str() {
        "finetune_full" | "finetune_lora" | "quantize_model" | "flatten" => {
            Some(format!("pyrust-nn inference --model {made} --prompt Hello{runs_dir}"))
        }
        "merge" => Some(format!("pyrust-nn convert-model-to-gguf --model {made}{runs_dir}")),
        "convert_model_to_gguf" => {
            let folder = runs.join(&made);
            let mut files: Vec<_> = std::fs::read_dir(&folder).ok()?.flatten().map(|entry| entry.file_name()).collect();
            files.sort();
            let modelfile = files.into_iter().find(|name| name.to_string_lossy().starts_with("Modelfile"))?;
            let name = made.replace('/', "-").to_lowercase();
            Some(format!("ollama create {name} -f {}", quoted(&folder.join(modelfile).to_string_lossy())))
        }
        _ => None,
    }
}

/// The end of a step: its files below `runs`, its quality, its metrics without zeros.
pub(crate) fn step_lines(summary: &Summary, runs: &Path) -> Vec<String> {
    let folder = runs.join(&summary.session);
    let mut lines = vec![format!("session {}, step {}", summary.session, summary.step)];
    let mut line = |name: &str, text: &str| lines.push(format!("  {name:<28} {text}"));
    for (name, paths) in &summary.outputs {
        let paths = paths.as_array().map_or_else(|| vec![paths], |paths| paths.iter().collect());
        for (i, path) in paths.into_iter().enumerate() {
            line(if i == 0 { name } else { "" }, &folder.join(plain_list(path)).display().to_string());
        }
    }
    let quality = quality(summary);
    if !quality.is_empty() {
        line("result", &quality);
    }
    for (name, value) in summary.metrics.iter().filter(|(_, value)| value.as_f64() != Some(0.0)) {
        line(name, &metric(name, value));
    }
    lines
}

fn metric(name: &str, value: &Value) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(size), _) if name.ends_with("_bytes") => bytes(size),
        (Some(count), _) => grouped(count),
        (None, Some(number)) => significant(number),
        _ => plain_list(value),
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(task: &str, metrics: Value) -> Summary {
        Summary { metrics: metrics.as_object().cloned().unwrap(), ..Summary::new(task, "s1", "tune") }
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
            assert_eq!(quality(&of("any", metrics)), words);
        }
    }

    #[test]
    fn the_next_command_names_the_step_and_the_folder_of_the_sessions() {
        let next = |task: &str, runs: &str, named| next_command(&of(task, json!({})), Path::new(runs), named);
        assert_eq!(next("finetune_lora", "runs", false).unwrap(), "pyrust-nn inference --model s1/tune --prompt Hello");
        let named = next("merge", "/it's here", true).unwrap();
        assert_eq!(named, r"pyrust-nn convert-model-to-gguf --model s1/tune --runs-dir '/it'\''s here'");
        assert_eq!(next("inference", "runs", false), None);
        let failed = Summary { status: Status::Failure, ..of("merge", json!({})) };
        assert_eq!(next_command(&failed, Path::new("runs"), false), None);
    }

    #[test]
    fn zeros_are_left_out_and_numbers_are_readable() {
        let summary = of(
            "finetune_lora",
            json!({"dropped": 0, "rate": 0.0, "tokens": 2755, "peak_memory_bytes": 1_492_332_544, "tokens_per_second": 1479.755}),
        );
        let lines = step_lines(&summary, Path::new("runs")).join("\n");
        assert!(!lines.contains("dropped") && !lines.contains("rate "), "{lines}");
        for word in ["2,755", "1.5 GB", "1480"] {
            assert!(lines.contains(word), "{word} in {lines}");
        }
    }
}
