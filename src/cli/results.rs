//! What a step's end says: what it made, how good it is, and the next command to try.

use std::path::Path;

use serde_json::Value;

use crate::cli::output::plain_list;
use crate::cli::text::{bytes, counted, grouped, significant, visible};
use crate::cli::wrap::cut;
use crate::report::{IN_QUALITY, quality};
use crate::session::{Status, Summary};

/// Columns of a script's result.
const SHOWN_RESULT: usize = 400;

/// The command that shows what the step made; none if it made nothing to try. `runs`: the folder of all sessions, `named` if the user
/// named it.
pub(crate) fn next_command(summary: &Summary, runs: &Path, named: bool) -> Option<String> {
    if summary.status != Status::Success {
        return None;
    }
    let made = format!("{}/{}", summary.session, summary.step);
    let into = |task: &str| {
        let exists = runs.join(&summary.session).join(task).exists();
        if exists { String::new() } else { format!(" --session {}", summary.session) }
    };
    let runs_dir = if named { format!(" --runs-dir {}", quoted(&runs.to_string_lossy())) } else { String::new() };
    match summary.task.as_str() {
        "finetune_full" | "finetune_lora" | "quantize_model" | "flatten" => {
            Some(format!("pyrust-nn inference --model {made} --prompt Hello{runs_dir}"))
        }
        "compute_imatrix" => {
            let model = quoted(summary.params.get("model")?.as_str()?);
            let options = format!("--imatrix {made} --outtype q4_k_m{}", into("convert_model_to_gguf"));
            Some(format!("pyrust-nn convert-model-to-gguf --model {model} {options}{runs_dir}"))
        }
        "inference" => {
            // Adapters in GGUF are named by other parameters, and `@step` only within a session: a pipeline suggests what it made.
            let has_adapter = summary.params.get("adapter").is_some_and(|adapter| !adapter.is_null());
            let model = summary.params.get("model")?.as_str()?;
            (!has_adapter && !model.starts_with('@')).then(|| format!("pyrust-nn chat --model {}{runs_dir}", quoted(model)))
        }
        "merge" => Some(format!("pyrust-nn convert-model-to-gguf --model {made}{}{runs_dir}", into("convert_model_to_gguf"))),
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

/// The end of a step: its files below `runs`, its quality, the value that a script returned, its other metrics without zeros.
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
    if summary.task == "script" && !summary.result.is_null() {
        line("result", &cut(&visible(&summary.result.to_string()), SHOWN_RESULT));
    }
    let others = summary.metrics.iter().filter(|(name, _)| !IN_QUALITY.contains(&name.as_str()));
    for (name, value) in others.filter(|(_, value)| value.as_f64() != Some(0.0)) {
        line(name, &metric(name, value));
    }
    lines
}

/// The answers of `inference` as text; of several, each below its question.
pub(crate) fn answers(summary: &Summary) -> Vec<String> {
    match all_answers(summary) {
        [answer] => vec![text_of(answer)],
        all => all.iter().map(asked_and_answered).collect(),
    }
}

/// The answers of `inference` to the prompts that are values of a pipeline, each below its question. Those to a file of prompts are left
/// out.
pub(crate) fn answers_to_values(summary: &Summary) -> Vec<String> {
    let prompts = summary.params.get("prompt").and_then(Value::as_array).map_or(0, Vec::len);
    all_answers(summary).iter().take(prompts).map(asked_and_answered).collect()
}

/// Which answers of `inference` were cut off, and what changes it. The results have it as `finish_reason`.
pub(crate) fn cut_off(summary: &Summary) -> Option<String> {
    let all = all_answers(summary);
    let cut: Vec<&Value> = all.iter().filter(|answer| answer["finish_reason"] == "length").collect();
    let limit = summary.params.get("max_new_tokens").and_then(Value::as_u64)?;
    let at_limit = cut.iter().filter(|answer| answer["completion_tokens"].as_u64() >= Some(limit)).count();
    let which = match (all.len(), cut.len()) {
        (_, 0) => return None,
        (1, _) => "the answer was cut off".to_string(),
        (all, one) => format!("{one} of {all} answers {} cut off", if one == 1 { "was" } else { "were" }),
    };
    Some(if at_limit > 0 {
        format!("{which} at {}; --max-new-tokens changes that", counted(limit, "token"))
    } else {
        format!("{which} at the model's positions")
    })
}

/// Those to the prompts of the parameter come first.
fn all_answers(summary: &Summary) -> &[Value] {
    summary.result.as_array().filter(|_| summary.task == "inference").map_or(&[], Vec::as_slice)
}

fn asked_and_answered(answer: &Value) -> String {
    let messages = answer["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let question = visible(messages.last().and_then(|last| last["content"].as_str()).unwrap_or_default());
    format!("> {question}\n{}", text_of(answer))
}

fn text_of(answer: &Value) -> String {
    visible(answer["text"].as_str().unwrap_or_default())
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
pub(crate) fn quoted(word: &str) -> String {
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
    fn the_next_command_names_the_step_and_the_folder_of_the_sessions() {
        let next = |task: &str, runs: &str, named| next_command(&of(task, json!({})), Path::new(runs), named);
        assert_eq!(next("finetune_lora", "runs", false).unwrap(), "pyrust-nn inference --model s1/tune --prompt Hello");
        let named = next("merge", "/it's here", true).unwrap();
        assert_eq!(named, r"pyrust-nn convert-model-to-gguf --model s1/tune --session s1 --runs-dir '/it'\''s here'");
        assert_eq!(next("inference", "runs", false), None);
        for (model, wanted) in [("m/gguf", Some("pyrust-nn chat --model m/gguf")), ("@merge", None)] {
            let mut summary = of("inference", json!({}));
            summary.params.insert("model".into(), json!(model));
            assert_eq!(next_command(&summary, Path::new("runs"), false).as_deref(), wanted);
        }
        let failed = Summary { status: Status::Failure, ..of("merge", json!({})) };
        assert_eq!(next_command(&failed, Path::new("runs"), false), None);
    }

    #[test]
    fn an_answer_that_was_cut_off_says_at_what() {
        let told = |reasons: &[(&str, u64)]| {
            let answers: Vec<Value> =
                reasons.iter().map(|(reason, tokens)| json!({"finish_reason": reason, "completion_tokens": tokens})).collect();
            let params = json!({"max_new_tokens": 8}).as_object().cloned().unwrap();
            cut_off(&Summary { result: answers.into(), params, ..of("inference", json!({})) })
        };
        assert_eq!(told(&[("stop", 8)]), None);
        assert_eq!(told(&[("length", 8)]).unwrap(), "the answer was cut off at 8 tokens; --max-new-tokens changes that");
        assert_eq!(told(&[("length", 5)]).unwrap(), "the answer was cut off at the model's positions");
        assert!(told(&[("length", 8), ("stop", 2), ("length", 8)]).unwrap().starts_with("2 of 3 answers were cut off at 8 tokens"));
    }

    #[test]
    fn zeros_are_left_out_and_numbers_are_readable() {
        let summary = of(
            "finetune_lora",
            json!({"dropped": 0, "rate": 0.0, "tokens": 2755, "peak_memory_bytes": 1_492_332_544, "tokens_per_second": 1479.755}),
        );
        let lines = step_lines(&summary, Path::new("runs")).join("\n");
        assert!(!lines.contains("dropped") && !lines.contains("rate "), "{lines}");
        for word in ["2,755", "1.5 GB", "1,480"] {
            assert!(lines.contains(word), "{word} in {lines}");
        }
    }
}
