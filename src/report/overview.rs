//! The first screen: what was trained on what, whether it went well, and what is to be looked at.

use serde_json::{Value, json};

use crate::base::numbers::{grouped, seconds, significant};
use crate::report::html::cut;
use crate::report::lineage::names;
use crate::report::recorded::{RecordedSession, RecordedStep};
use crate::report::steps::class;

/// Trainings and findings that are listed.
const MAX_ROWS: usize = 40;
/// Characters of a model's name.
const NAME: usize = 200;
/// A training loss so much above its first value has risen. One batch differs from another, so this is more.
const RISEN_LOSS: f64 = 1.25;
/// An evaluation loss so much above its lowest has risen.
const RISEN: f64 = 1.02;

/// The state of the session in a sentence, and whether it is good news.
pub(crate) fn verdict(session: &RecordedSession) -> Value {
    let steps = session.last_attempts();
    let failed: Vec<&RecordedStep> = steps.iter().copied().filter(|step| step.state.state == "failure").collect();
    let unproven = failed
        .iter()
        .any(|step| step.summary.as_ref().is_some_and(|one| one.error.as_ref().is_some_and(|error| error.kind.name() == "proof")));
    let all = match steps.len() {
        1 => "The only step succeeded.".to_string(),
        count => format!("All {count} steps succeeded."),
    };
    // The word is that of `sessions`; the sentence says more.
    let state = session.state.state.as_str();
    let is_incomplete = !steps.is_empty() && !session.not_run.is_empty();
    let sentence = match state {
        "running" => "A step is running; this page shows what had ended when it was written.".to_string(),
        "failure" => {
            let count = if failed.len() == 1 { "One step".into() } else { format!("{} steps", failed.len()) };
            format!("{count} of {} failed{}.", steps.len(), if unproven { ": a file is not the model that it was made from" } else { "" })
        }
        "interrupted" => "It was interrupted and can be resumed.".to_string(),
        _ if steps.is_empty() => "No step has run.".to_string(),
        _ if is_incomplete => format!("{} of {} steps have run.", steps.len(), steps.len() + session.not_run.len()),
        _ => all,
    };
    // A step that failed before it had recorded its inputs cannot be resumed, only run again.
    let can_resume = state == "interrupted" || is_incomplete || failed.iter().any(|step| step.has_begun);
    let resume = (can_resume && state != "running").then(|| format!("pyrust-nn resume {}", session.state.session));
    let time: f64 = session.steps.iter().filter_map(|step| step.state.duration_s).sum();
    json!({
        "state": class(state),
        "word": state,
        "sentence": sentence,
        "resume": resume,
        "time": seconds(time),
        "warnings": session.warnings.len(),
    })
}

/// Each training: what was trained, from which model, on what.
pub(crate) fn trainings(session: &RecordedSession) -> Vec<Value> {
    let all = session.steps.iter().enumerate().filter(|(_, step)| step.is_training()).take(MAX_ROWS);
    all.map(|(number, step)| {
        let base = step.model().unwrap_or("an unknown model");
        let root = session.root_model(number).filter(|root| *root != base);
        let base = made_by(session, base, number);
        let lora = step.state.task == "finetune_lora";
        let trained = step.count("trainable_parameters").map(grouped);
        let share = step.number("trainable_parameters").zip(step.number("all_parameters")).filter(|(part, all)| part < all && *all > 0.0);
        json!({
            "number": number,
            "name": step.name(),
            "state": step.state.state,
            "kind": if lora { "a LoRA adapter" } else { "all weights" },
            "rank": step.params.get("lora_rank").and_then(Value::as_u64).filter(|_| lora),
            "continues": step.params.get("checkpoint_lora").and_then(Value::as_str).map(|name| made_by(session, name, number)),
            "trained": trained,
            "share": share.map(|(part, all)| format!("{} %", significant(100.0 * part / all))),
            "base": base,
            "root": root.map(|root| cut(root, NAME)),
            "data": names(step.params.get("dataset_path").unwrap_or(&Value::Null)),
            "conversations": step.count("conversations").map(grouped),
            "tokens": step.count("tokens").map(grouped),
            "target_tokens": step.count("target_tokens").map(grouped),
            "steps": step.count("steps").map(grouped),
            "epochs": step.number("epochs").map(significant),
        })
    })
    .collect()
}

/// What a step used, as a reader knows it: the step of this session that made it, otherwise its name.
fn made_by(session: &RecordedSession, name: &str, at: usize) -> Value {
    let source = session.source(name, at);
    json!({"name": cut(name, NAME), "step": source.map(|number| json!({"number": number, "name": session.steps[number].name()}))})
}

/// What the numbers say, each with the step and whether it is good, bad or neither.
pub(crate) fn findings(session: &RecordedSession) -> Vec<Value> {
    let mut found: Vec<OverviewSentence> = Vec::new();
    for (number, step) in session.steps.iter().enumerate() {
        let about = json!({"number": number, "name": step.name()});
        // What is true of several steps is said once.
        let mut add = |tone: &'static str, text: String| match found.iter_mut().find(|one| one.tone == tone && one.text == text) {
            Some(one) => one.steps.push(about.clone()),
            None => found.push(OverviewSentence { tone, text, steps: vec![about.clone()] }),
        };
        if step.is_training() {
            loss(step, &mut add);
        }
        if let Some(expected) = step.count("expected_answers").filter(|expected| *expected > 0) {
            let matching = step.count("matching_answers").unwrap_or_default();
            let tone = if matching == expected { "good" } else { "neutral" };
            add(tone, format!("{} of {} answers are exactly as expected.", grouped(matching), grouped(expected)));
        }
        let proofs = step.summary.as_ref().and_then(|summary| summary.proof.as_array()).map_or(&[][..], Vec::as_slice);
        let passed = |wanted: Option<bool>| proofs.iter().filter(|proof| proof["passed"].as_bool() == wanted).count();
        match (passed(Some(true)), passed(Some(false)), proofs.len()) {
            (_, _, 0) => {}
            (passed, 0, all) if passed == all => {
                add("good", "What was made is proven: compared with the model that it was made from, within all bounds.".into());
            }
            (_, 0, _) => add("neutral", format!("{} not compared with the model that it was made from.", files(passed(None)))),
            (_, failed, _) => add("bad", format!("{} did not pass the comparison with the model; do not use it.", files(failed))),
        }
        let forgotten = step.summary.as_ref().map(|summary| &summary.result["forgetting"]).and_then(Value::as_array).into_iter().flatten();
        if let Some(most) = forgotten.filter_map(|row| row["forgotten"].as_f64()).reduce(f64::max) {
            let text = format!("The loss on earlier data sets changed by {} at worst.", signed(most));
            add(if most > 0.1 { "neutral" } else { "good" }, text);
        }
    }
    let shown = found.into_iter().take(MAX_ROWS);
    shown.map(|one| json!({"tone": one.tone, "text": one.text, "steps": one.steps.iter().take(MAX_ROWS).collect::<Vec<_>>()})).collect()
}

/// A sentence about one or several steps.
struct OverviewSentence {
    tone: &'static str,
    text: String,
    steps: Vec<Value>,
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".into() } else { format!("{count} files") }
}

pub(crate) fn signed(number: f64) -> String {
    format!("{}{}", if number > 0.0 { "+" } else { "" }, significant(number))
}

fn loss(step: &RecordedStep, add: &mut dyn FnMut(&'static str, String)) {
    let curve = step.curves.named("loss").map(|curve| &curve.points);
    let first = step.number("first_loss").or_else(|| Some(curve?.first()?.1));
    let last = step.number("last_loss").or_else(|| Some(curve?.last()?.1));
    if let (Some(first), Some(last)) = (first, last) {
        let (from, to) = (significant(first), significant(last));
        match last / first.max(f64::MIN_POSITIVE) {
            _ if curve.is_some_and(|points| points.len() == 1) && from == to => {
                add("neutral", format!("The loss was logged once, as {to}, so whether it fell is not known."));
            }
            _ if from == to => add("neutral", format!("The loss stayed at {to}.")),
            share if share < 0.99 => add("good", format!("The loss fell from {from} to {to}.")),
            share if share > RISEN_LOSS => add("bad", format!("The loss rose from {from} to {to}: the learning rate may be too high.")),
            _ => add("neutral", format!("The loss hardly changed: {from} at the start, {to} at the end.")),
        }
    }
    let evaluated = step.curves.named("eval_loss").map(|curve| curve.points.as_slice()).unwrap_or_default();
    let lowest = evaluated.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    if let (Some((at, best)), Some((_, end))) = (lowest, evaluated.last()) {
        let best_kept = step.params.get("load_best_model_at_end") == Some(&Value::Bool(true));
        if *end > best * RISEN {
            let kept =
                if best_kept { "the best step was kept" } else { "later steps learned the data by heart; fewer epochs may be better" };
            let (best, at, end) = (significant(*best), significant(*at), significant(*end));
            add(
                if best_kept { "neutral" } else { "bad" },
                format!("The evaluation loss was lowest at step {at} ({best}) and rose to {end}: {kept}."),
            );
        } else {
            add("good", format!("The evaluation loss on held-out data ended at {}.", significant(*end)));
        }
    }
    let lost = step.count("truncated").unwrap_or_default() + step.count("dropped").unwrap_or_default();
    if lost > 0 {
        add("neutral", format!("{} samples were truncated or dropped, because they are longer than max_length.", grouped(lost)));
    }
}
