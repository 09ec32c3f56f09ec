//! What a training kept for its report: samples.jsonl (answers before and after) and data_report.json (the data as the model saw it, and what
//! was estimated). `python/pyrust_nn/training/report_files.py` writes both.

use serde_json::{Value, json};

use crate::base::numbers::{bytes, counted, grouped, significant};
use crate::report::histogram::histogram;
use crate::report::recorded::{RecordedSession, RecordedStep};
use crate::session::artifact::names_in;
use crate::session::folder_bytes;

/// Segments of a row, which alternate between trained and not trained.
const MAX_SEGMENTS: usize = 200;
/// Findings of a data set that are shown.
const MAX_FOUND: usize = 20;
/// Data sets that are shown.
const MAX_DATA: usize = 20;
/// Tokens of an answer before and after, as `report_files.py` has them.
pub(crate) const SAMPLE_TOKENS: usize = 48;

/// The answers of a training to the same prompts, before and after. `None` if it kept none.
pub(crate) fn before_and_after(step: &RecordedStep, number: usize) -> Option<Value> {
    if step.samples.is_empty() || number == 0 {
        return None;
    }
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(ToString::to_string);
    let shown = step.samples.iter().take(number).map(|one| {
        let answer = |when: &str| {
            let given = one[when].as_str().map(|text| if text.trim().is_empty() { "(an empty answer)" } else { text });
            json!({"text": given, "is_cut": one[&format!("{when}_complete")] == false})
        };
        let same = one["before"].is_string() && one["before"] == one["after"];
        json!({
            "prompt": text(&one["message"]).or_else(|| text(&one["prompt"])),
            "expected": text(&one["expected"]),
            "before": answer("before"),
            "after": answer("after"),
            "same": same,
            "exact": one["after"].as_str().zip(one["expected"].as_str()).is_some_and(|(after, expected)| after.trim() == expected.trim()),
        })
    });
    let shown: Vec<Value> = shown.collect();
    Some(json!({
        "step": step.state.step,
        "held_out": step.samples.iter().all(|one| one["held_out"] == true),
        "more": step.samples.len() - shown.len(),
        "shown": shown,
    }))
}

/// The data of trainings as the model saw it. Trainings on the same rows are shown together.
pub(crate) fn data_shown(steps: &[RecordedStep], number: usize) -> Vec<Value> {
    let mut shown: Vec<Value> = Vec::new();
    for step in steps {
        let Some(mut data) = of_training(step, number) else { continue };
        let same = shown.iter_mut().find(|one| {
            data["steps"] = one["steps"].clone();
            **one == data
        });
        if let Some(steps) = same.and_then(|one| one["steps"].as_array_mut()) {
            steps.push(step.state.step.as_str().into());
        } else if shown.len() < MAX_DATA {
            data["steps"] = json!([step.state.step]);
            shown.push(data);
        }
    }
    shown
}

/// Lengths, and some rows with their trained tokens.
fn of_training(step: &RecordedStep, number: usize) -> Option<Value> {
    let report = step.data_report.as_ref()?;
    let count = |name: &str| report["lengths"][name].as_u64();
    let samples = report["samples"].as_array().map(Vec::as_slice).unwrap_or_default().iter().take(number).map(|sample| {
        let segments = sample["segments"].as_array().map(Vec::as_slice).unwrap_or_default();
        let each = segments.iter().take(MAX_SEGMENTS).map(|one| json!({"text": one[0].as_str(), "trained": one[1] == true}));
        let tokens = sample["tokens"].as_u64().unwrap_or_default();
        json!({
            "row": sample["row"].as_u64().map(|row| grouped(row + 1)),
            "tokens": counted(tokens, "token"),
            "trained": sample["trained"].as_u64().map(grouped),
            "cut": sample["shown"].as_u64().filter(|shown| *shown < tokens).map(grouped),
            "segments": each.collect::<Vec<_>>(),
        })
    });
    let found = ["warnings", "notes"].iter().filter_map(|kind| report[*kind].as_array()).flatten().filter_map(Value::as_str);
    Some(json!({
        "steps": null,
        "found": found.take(MAX_FOUND).collect::<Vec<_>>(),
        "histogram": histogram(&report["lengths"]["histogram"]),
        "median": count("median").map(grouped),
        "p90": count("p90").map(grouped),
        "p99": count("p99").map(grouped),
        "max": count("max").map(grouped),
        "max_length": report["max_length"].as_u64().map(grouped),
        "samples": samples.collect::<Vec<_>>(),
    }))
}

/// What was estimated before a training, beside what happened: rows of name, estimate, fact.
pub(crate) fn promised(session: &RecordedSession, step: &RecordedStep) -> Vec<Value> {
    let Some(estimate) = step.data_report.as_ref().map(|report| &report["estimate"]).filter(|estimate| estimate.is_object()) else {
        return Vec::new();
    };
    let outputs = step.summary.as_ref().map(|summary| &summary.outputs).into_iter().flatten().flat_map(|(_, paths)| names_in(Some(paths)));
    let made: u64 = outputs.map(|path| folder_bytes(&session.folder.join(path))).sum();
    let [grouped, bytes]: [fn(u64) -> String; 2] = [grouped, bytes];
    let rows = [
        ("training steps", estimate["steps"].as_u64(), step.count("steps"), grouped),
        ("trained parameters", estimate["trainable_parameters"].as_u64(), step.count("trainable_parameters"), grouped),
        (
            "memory, without Python and its libraries (fact: with them)",
            estimate["memory"]["total"].as_u64(),
            step.count("peak_memory_bytes"),
            bytes,
        ),
        ("size of what was made", estimate["disk"]["output"].as_u64(), Some(made).filter(|made| *made > 0), bytes),
    ];
    let shown = rows.into_iter().filter(|(_, promised, fact, _)| promised.is_some() && fact.is_some()).map(|(name, promised, fact, text)| {
        let ratio = promised.zip(fact).filter(|(promised, _)| *promised > 0).map(|(promised, fact)| fact as f64 / promised as f64);
        json!({
            "step": step.state.step,
            "name": name,
            "promised": promised.map(text),
            "fact": fact.map(text),
            "ratio": ratio.map(|ratio| if (ratio - 1.0).abs() < 5e-4 { "as estimated".into() } else { format!("{} times", significant(ratio)) }),
        })
    });
    shown.collect()
}
