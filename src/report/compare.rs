//! What differs between sessions: parameters, data, versions, metrics and proofs. What is equal is left out.
//!
//! Steps are compared with the steps of the same name and task, otherwise in their order with those of the same task. Of a step that only
//! some sessions have, it is said which have it not; all its values would differ.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::base::numbers::{precise, precise_bytes};
use crate::report::chart::{ChartForm, ChartLine, MAX_LINES, chart, chart_data};
use crate::report::curves::Curve;
use crate::report::html::render;
use crate::report::recorded::{RecordedSession, RecordedStep};
use crate::report::steps::value_text;
use crate::session::existing_session::existing_session;

/// Parameters that change nothing in the result.
const WITHOUT_EFFECT: [&str; 4] = ["runs_dir", "overwrite", "dry_run", "step"];
/// Metrics of the data set.
const OF_DATA: [&str; 13] = [
    "conversations",
    "rows",
    "eval_rows",
    "tokens",
    "target_tokens",
    "longest",
    "truncated",
    "dropped",
    "duplicates",
    "lost_tokens",
    "split_conversations",
    "separately_tokenized_turns",
    "literal_special_tokens",
];
/// Characters of a text in the page.
const TEXT: usize = 1000;
/// Rows of a group in the page.
const MAX_ROWS: usize = 300;

/// A step that not every session has.
#[derive(Clone, Debug)]
pub(crate) struct MissingStep {
    pub step: String,
    /// The sessions without it.
    pub sessions: Vec<String>,
}

/// A value that differs, of each session; null where a session has none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    pub name: String,
    pub values: Vec<Value>,
}

/// The differences of one kind.
#[derive(Clone, Debug)]
pub(crate) struct DifferenceGroup {
    /// `None` for what belongs to the session as a whole.
    pub step: Option<String>,
    /// `parameters`, `data`, `metrics`, `proof` or `versions`.
    pub part: &'static str,
    pub rows: Vec<Difference>,
}

/// A curve of several sessions that is not the same in all.
#[derive(Clone, Debug)]
pub(crate) struct ComparedCurve {
    pub step: String,
    pub name: String,
    /// Of each session; `None` where it has no such curve.
    pub curves: Vec<Option<Curve>>,
}

/// What differs between sessions.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub sessions: Vec<String>,
    pub missing: Vec<MissingStep>,
    pub groups: Vec<DifferenceGroup>,
    pub curves: Vec<ComparedCurve>,
}

/// Compares sessions of one folder.
///
/// # Errors
/// Kind `usage` if there is no such session, `input` if a session.json is damaged.
pub(crate) fn compare(runs: &Path, names: &[String]) -> Result<Comparison> {
    // The message has the folder as it was given.
    names.iter().try_for_each(|name| existing_session(runs, name).map(drop))?;
    let runs = std::path::absolute(runs)?;
    let sessions: Vec<RecordedSession> = names.iter().map(|name| RecordedSession::read(&runs, name)).collect::<Result<_>>()?;
    let mut comparison = Comparison { sessions: names.to_vec(), missing: Vec::new(), groups: Vec::new(), curves: Vec::new() };
    for slot in slots(&sessions) {
        let steps: Vec<Option<&RecordedStep>> = slot.iter().zip(&sessions).map(|(at, session)| Some(&session.steps[(*at)?])).collect();
        let mut titles: Vec<&str> = Vec::new();
        for step in steps.iter().flatten() {
            if !titles.contains(&step.name()) {
                titles.push(step.name());
            }
        }
        let title = titles.join(" / ");
        let without = steps.iter().zip(names).filter(|(step, _)| step.is_none()).map(|(_, name)| name.clone());
        let missing = MissingStep { step: title.clone(), sessions: without.collect() };
        comparison.missing.extend((!missing.sessions.is_empty()).then_some(missing));
        let places = || slot.iter().zip(&sessions);
        let of_session = |of: fn(&RecordedSession, usize) -> Map<String, Value>| -> Vec<Option<Map<String, Value>>> {
            places().map(|(at, session)| at.map(|at| of(session, at))).collect()
        };
        let of_step = |of: fn(&RecordedStep) -> Map<String, Value>| -> Vec<Option<Map<String, Value>>> {
            steps.iter().map(|step| step.map(of)).collect()
        };
        for (part, values) in
            [("parameters", of_session(parameters)), ("data", of_session(data)), ("metrics", of_step(metrics)), ("proof", of_step(proof))]
        {
            let rows = differing(&values);
            if !rows.is_empty() {
                comparison.groups.push(DifferenceGroup { step: Some(title.clone()), part, rows });
            }
        }
        comparison.curves.extend(curves(&title, &steps));
    }
    let rows = differing(&sessions.iter().map(versions).map(Some).collect::<Vec<_>>());
    if !rows.is_empty() {
        comparison.groups.push(DifferenceGroup { step: None, part: "versions", rows });
    }
    Ok(comparison)
}

/// Of each compared step the number that it has in each session.
fn slots(sessions: &[RecordedSession]) -> Vec<Vec<Option<usize>>> {
    let mut slots: Vec<(String, String, Vec<Option<usize>>)> = Vec::new();
    for (i, session) in sessions.iter().enumerate() {
        let mut rest = Vec::new();
        for (at, step) in session.steps.iter().enumerate().filter(|(_, step)| step.state.step == step.name()) {
            match slots.iter_mut().find(|(name, task, of)| *name == step.state.step && *task == step.state.task && of[i].is_none()) {
                Some((.., of)) => of[i] = Some(at),
                None => rest.push(at),
            }
        }
        for at in rest {
            let step = &session.steps[at].state;
            match slots.iter_mut().find(|(_, task, of)| *task == step.task && of[i].is_none()) {
                Some((.., of)) => of[i] = Some(at),
                None => {
                    let mut of = vec![None; sessions.len()];
                    of[i] = Some(at);
                    slots.push((step.step.clone(), step.task.clone(), of));
                }
            }
        }
    }
    slots.into_iter().map(|(.., of)| of).collect()
}

/// The rows that are not the same in all that there are, in the order of their first occurrence.
fn differing(all: &[Option<Map<String, Value>>]) -> Vec<Difference> {
    let mut names: Vec<&String> = Vec::new();
    for map in all.iter().flatten() {
        for name in map.keys() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let value = |map: &Map<String, Value>, name: &String| map.get(name).cloned().unwrap_or_default();
    let differs = |name: &&String| {
        let values: Vec<Value> = all.iter().flatten().map(|map| value(map, name)).collect();
        values.windows(2).any(|pair| pair[0] != pair[1])
    };
    let row = |name: &String| Difference {
        name: name.clone(),
        values: all.iter().map(|map| map.as_ref().map_or(Value::Null, |map| value(map, name))).collect(),
    };
    names.into_iter().filter(differs).map(row).collect()
}

/// The parameters that have an effect. What a step of the same session made is `@step`.
fn parameters(session: &RecordedSession, at: usize) -> Map<String, Value> {
    let step = &session.steps[at];
    let own = |value: &Value| match value {
        Value::String(name) => {
            session.source(name, at).map_or_else(|| value.clone(), |source| format!("@{}", session.steps[source].name()).into())
        }
        other => other.clone(),
    };
    let known = step.params.iter().filter(|(name, _)| !WITHOUT_EFFECT.contains(&name.as_str()));
    let mut all: Map<String, Value> = known.map(|(name, value)| (name.clone(), own(value))).collect();
    if !["success", ""].contains(&step.state.state.as_str()) {
        all.insert("state".into(), step.state.state.clone().into());
    }
    all
}

/// What the step read: hashes of data and of models that no step of the session made, and the counts of the data set.
fn data(session: &RecordedSession, at: usize) -> Map<String, Value> {
    let step = &session.steps[at];
    let mut all = Map::new();
    for (param, files) in &step.inputs {
        let given = step.params.get(param).and_then(Value::as_str);
        if given.is_some_and(|given| session.source(given, at).is_some()) {
            continue;
        }
        let files = files.as_object().into_iter().flatten();
        let weights = |path: &str| !["model", "adapter", "checkpoint_lora"].contains(&param.as_str()) || path.ends_with(".safetensors");
        let hashes = files.filter(|(path, _)| weights(path)).filter_map(|(_, about)| about["sha256"].as_str());
        let hashes: Vec<&str> = hashes.map(|hash| hash.get(..16).unwrap_or(hash)).collect();
        if !hashes.is_empty() {
            all.insert(format!("{param} (SHA-256)"), hashes.join(", ").into());
        }
    }
    let counts = step.summary.as_ref().map(|summary| &summary.metrics).into_iter().flatten();
    all.extend(counts.filter(|(name, _)| OF_DATA.contains(&name.as_str())).map(|(name, value)| (name.clone(), value.clone())));
    all
}

fn metrics(step: &RecordedStep) -> Map<String, Value> {
    let Some(summary) = &step.summary else { return Map::new() };
    let own = summary.metrics.iter().filter(|(name, _)| !OF_DATA.contains(&name.as_str()));
    let mut all: Map<String, Value> = own.map(|(name, value)| (name.clone(), value.clone())).collect();
    all.insert("duration_s".into(), json!(summary.duration_s));
    all
}

/// The figures of the proofs: `q8_0 mean_kl`. A file is named by its type, because its name has the session's.
fn proof(step: &RecordedStep) -> Map<String, Value> {
    let mut all = Map::new();
    let proofs = step.summary.as_ref().and_then(|summary| summary.proof.as_array());
    for proof in proofs.into_iter().flatten() {
        let file = proof["file"].as_str().unwrap_or_default();
        let name = file.rsplit('/').next().unwrap_or_default();
        let kind = name.strip_suffix(".gguf").and_then(|name| name.rsplit('.').next()).unwrap_or(name);
        let layers = &proof["layers"];
        for (figure, value) in [
            ("passed", &proof["passed"]),
            ("worst ratio", &layers["bytes"]["worst"]["ratio"]),
            ("mean_kl", &layers["logits"]["mean_kl"]),
            ("top1", &layers["logits"]["top1"]),
            ("perplexity", &layers["logits"]["perplexity"]),
            ("equal prompts", &layers["prompts"]["equal"]),
            ("equal answers", &layers["answers"]["equal"]),
        ] {
            all.insert(format!("{kind} {figure}"), value.clone());
        }
    }
    all
}

fn versions(session: &RecordedSession) -> Map<String, Value> {
    let mut all = Map::new();
    for name in ["version", "python", "gpu"] {
        all.insert(name.into(), session.record.get(name).cloned().unwrap_or_default());
    }
    for name in ["packages", "platform"] {
        let known = session.record.get(name).and_then(Value::as_object).into_iter().flatten();
        all.extend(known.map(|(name, value)| (name.clone(), value.clone())));
    }
    all
}

/// The curves of a step that at least two sessions have.
fn curves(title: &str, steps: &[Option<&RecordedStep>]) -> Vec<ComparedCurve> {
    let mut names: Vec<&str> = Vec::new();
    for curve in steps.iter().flatten().flat_map(|step| step.curves.drawn()) {
        if !names.contains(&curve.name.as_str()) {
            names.push(&curve.name);
        }
    }
    let all = names.into_iter().map(|name| ComparedCurve {
        step: title.to_string(),
        name: name.to_string(),
        curves: steps.iter().map(|step| (*step)?.curves.named(name).cloned()).collect(),
    });
    all.filter(|one| one.curves.iter().flatten().count() > 1 && one.curves.windows(2).any(|pair| pair[0] != pair[1])).collect()
}

impl Difference {
    /// The values as text: numbers with more digits where rounded ones would look equal.
    pub(crate) fn texts(&self) -> Vec<String> {
        let known: Vec<&Value> = self.values.iter().filter(|value| !value.is_null()).collect();
        // If not, a session has the value and another has none.
        let values_differ = known.windows(2).any(|pair| pair[0] != pair[1]);
        let differ = |texts: &Vec<String>| {
            let known: Vec<&String> = texts.iter().zip(&self.values).filter(|(_, value)| !value.is_null()).map(|(text, _)| text).collect();
            !values_differ || known.windows(2).any(|pair| pair[0] != pair[1])
        };
        let texts = |text: &dyn Fn(&Value) -> String| self.values.iter().map(text).collect::<Vec<String>>();
        let rounded = || texts(&|value| value_text(&self.name, value));
        let precise = |digits| texts(&|value| precise_text(&self.name, value, digits));
        std::iter::once_with(rounded).chain((4..=17).map(precise)).find(differ).unwrap_or_else(|| texts(&Value::to_string))
    }
}

/// A number with this many digits; anything else as usual.
fn precise_text(name: &str, value: &Value, digits: usize) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(size), _) if name.ends_with("_bytes") => precise_bytes(size, digits),
        (None, Some(real)) => precise(real, digits),
        _ => value_text(name, value),
    }
}

impl Comparison {
    /// Whether there is no difference.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.missing.is_empty()
    }

    /// The steps that the same sessions lack: these sessions, and the steps.
    pub(crate) fn missing_together(&self) -> Vec<(&[String], Vec<&str>)> {
        let mut all: Vec<(&[String], Vec<&str>)> = Vec::new();
        for one in &self.missing {
            match all.iter_mut().find(|(sessions, _)| *sessions == one.sessions) {
                Some((_, steps)) => steps.push(&one.step),
                None => all.push((&one.sessions, vec![&one.step])),
            }
        }
        all
    }

    /// One JSON document: `{sessions, steps: [{step, missing_in, parameters, data, metrics, proof}], versions}`, each name of the parts with a
    /// value per session.
    pub(crate) fn to_json(&self) -> Value {
        let rows = |group: &DifferenceGroup| {
            group.rows.iter().map(|row| (row.name.clone(), Value::from(row.values.clone()))).collect::<Map<_, _>>()
        };
        let mut steps: Vec<Map<String, Value>> = Vec::new();
        let mut versions = Map::new();
        for group in &self.groups {
            let Some(step) = &group.step else {
                versions = rows(group);
                continue;
            };
            if steps.last().is_none_or(|last| last["step"] != step.as_str()) {
                steps.push(Map::from_iter([("step".to_string(), Value::from(step.as_str()))]));
            }
            if let Some(last) = steps.last_mut() {
                last.insert(group.part.into(), rows(group).into());
            }
        }
        for missing in &self.missing {
            let named = |step: &&mut Map<String, Value>| step["step"] == missing.step.as_str();
            let without = Value::from(missing.sessions.clone());
            match steps.iter_mut().find(named) {
                Some(step) => drop(step.insert("missing_in".into(), without)),
                None => steps.push(Map::from_iter([("step".into(), missing.step.as_str().into()), ("missing_in".into(), without)])),
            }
        }
        json!({"sessions": self.sessions, "steps": steps, "versions": versions})
    }

    /// One page, as that of a session.
    pub(crate) fn to_html(&self) -> Result<String> {
        render(Comparison::TEMPLATE, &self.values(), TEXT)
    }

    /// The template of the page.
    pub(crate) const TEMPLATE: &str = "compare.html";

    /// What the page shows. With `layout` another page is around it.
    pub(crate) fn values(&self) -> Value {
        let groups = self.groups.iter().map(|group| {
            let row = |row: &Difference| json!({"name": row.name, "cells": row.texts()});
            json!({"step": group.step, "part": group.part, "rows": group.rows.iter().take(MAX_ROWS).map(row).collect::<Vec<_>>()})
        });
        let charts = self.curves.iter().take(60).map(|one| {
            let lines = one.curves.iter().zip(&self.sessions).filter_map(|(curve, session)| Some((session, curve.as_ref()?)));
            let lines: Vec<ChartLine> = lines.map(|(name, curve)| ChartLine { name, points: &curve.points }).collect();
            let large = one.name == "loss";
            let (width, height) = if large { (560.0, 230.0) } else { (360.0, 180.0) };
            let form = ChartForm {
                width,
                height,
                columns: if large { 300 } else { 120 },
                hover: 40,
                log: false,
                bytes: one.name.ends_with("_bytes"),
            };
            let names: Vec<&str> = lines.iter().take(MAX_LINES).map(|line| line.name).collect();
            let title = format!("{} of {}", one.name, one.step);
            let data = chart_data(&lines, if large { 600 } else { 200 }, form.bytes, &|_| None);
            json!({"title": title, "large": large, "svg": chart(&title, &lines, &[], form), "data": data, "names": names})
        });
        json!({
            "sessions": self.sessions,
            "layout": null,
            "missing": self.missing_together(),
            "groups": groups.collect::<Vec<_>>(),
            "charts": charts.collect::<Vec<_>>(),
            "drawn": self.sessions.len().min(MAX_LINES),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_others_lack_is_as_readable_as_any() {
        let texts = |name: &str, values: Value| Difference { name: name.into(), values: values.as_array().cloned().unwrap() }.texts();
        assert_eq!(texts("loss", json!([0.123_456_789, null])), ["0.1235", "–"]);
        assert_eq!(texts("loss", json!([null, 0.123_456_789, 0.123_456_789])), ["–", "0.1235", "0.1235"]);
        assert_eq!(texts("loss", json!([0.123_456_7, 0.123_456_8])), ["0.1234567", "0.1234568"]);
        assert_eq!(texts("model_bytes", json!([null, 2_521_582])), ["–", "2.5 MB"]);
    }
}
