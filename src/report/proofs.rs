//! The proofs of files that were made: one row for each file.

use serde_json::{Value, json};

use crate::base::numbers::{grouped, significant};
use crate::report::recorded::RecordedStep;

/// Files of one proof that are shown.
const MAX_FILES: usize = 60;

/// The proof of the file with this name, in the step that made it.
pub(crate) fn proof_of<'a>(step: &'a RecordedStep, file: &str) -> Option<&'a Value> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_string();
    let proofs = step.summary.as_ref()?.proof.as_array()?;
    proofs.iter().find(|proof| proof["file"].as_str().is_some_and(|path| name(path) == name(file)))
}

/// Rows for all proofs of a step.
pub(crate) fn rows(step: &RecordedStep) -> Vec<Value> {
    let proofs = step.summary.as_ref().and_then(|summary| summary.proof.as_array());
    proofs.into_iter().flatten().take(MAX_FILES).map(|proof| row(&step.state.step, proof)).collect()
}

fn row(step: &str, proof: &Value) -> Value {
    let layers = &proof["layers"];
    let file = proof["file"].as_str().unwrap_or("?");
    let result = match proof["passed"].as_bool() {
        Some(true) => "passed",
        Some(false) => "failed",
        None => "not compared",
    };
    json!({
        "step": step,
        "file": file.rsplit('/').next(),
        "result": result,
        "weights": layer(&layers["bytes"], weights),
        "predictions": layer(&layers["logits"], predictions),
        "same_top": layers["logits"]["top1"].as_f64().map(|share| format!("{} %", significant(100.0 * share))),
        "perplexity": layers["logits"]["perplexity"].as_f64().map(significant),
        "reference_perplexity": layers["logits"]["reference_perplexity"].as_f64().map(significant),
        "prompts": layer(&layers["prompts"], |layer| of(&layer["equal"], &layer["conversations"], "equal")),
        "answers": layer(&layers["answers"], |layer| of(&layer["equal"], &layer["prompts"], "equal")),
    })
}

/// What a layer found, or why it did not run.
fn layer(layer: &Value, found: impl Fn(&Value) -> String) -> String {
    let why = layer["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    match (layer["ran"].as_bool(), layer["passed"].as_bool()) {
        (Some(true), Some(false)) => format!(
            "failed{}{why}",
            Some(found(layer)).filter(|text| !text.is_empty()).map_or_else(String::new, |text| format!(" ({text})"))
        ),
        (Some(true), _) => found(layer),
        _ => format!("not run{why}"),
    }
}

fn weights(layer: &Value) -> String {
    let tensors = layer["tensors"].as_u64().map(|count| format!("{} tensors", grouped(count)));
    let worst = &layer["worst"];
    let ratio = worst["ratio"].as_f64().map(|ratio| {
        let place = worst["tensor"].as_str().map(|tensor| format!(" in {tensor}")).unwrap_or_default();
        format!("largest error {} of the allowed one{place}", significant(ratio))
    });
    [tensors, ratio].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn predictions(layer: &Value) -> String {
    let number = |name: &str| layer[name].as_f64().map(significant);
    match (number("mean_kl"), number("max_allowed_kl")) {
        (Some(mean), Some(allowed)) => format!("{mean} (up to {allowed} is allowed)"),
        (Some(mean), None) => mean,
        _ => String::new(),
    }
}

fn of(part: &Value, whole: &Value, what: &str) -> String {
    match (part.as_u64(), whole.as_u64()) {
        (Some(part), Some(whole)) => format!("{} of {} {what}", grouped(part), grouped(whole)),
        _ => String::new(),
    }
}
