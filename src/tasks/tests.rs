//! Every task's definition, its script and the files of this folder agree.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, json};

use super::*;
use crate::base::assets;
use crate::data::Options;
use crate::dataset::{DATASETS, IMATRIX_DATASET};
use crate::params::interface::Interface;
use crate::params::param::TaskParams;
use crate::params::task::TASK_NAMES;
use crate::params::validate::resolve;

#[test]
fn every_task_file_is_listed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tasks");
    let files: BTreeSet<String> =
        std::fs::read_dir(here).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    let tasks = TASKS.iter().map(|task| task.name).chain(DATASET_COMMANDS.iter().map(|command| command.name));
    let listed = tasks.chain(["mod", "call", "tests"]).map(|name| format!("{name}.rs")).collect();
    assert_eq!(files, listed);
}

/// The names after `params.` in a source text.
fn used_params(text: &str) -> BTreeSet<String> {
    text.match_indices("params.")
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.'))
        .map(|(at, word)| text[at + word.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

/// The modules of `pyrust_nn` that a source text imports.
fn imported_modules(text: &str) -> BTreeSet<String> {
    let words = text.match_indices("from pyrust_nn.").map(|(at, word)| &text[at + word.len()..]);
    words.map(|rest| rest.split_whitespace().next().unwrap_or_default().to_string()).collect()
}

/// Parameters that Rust itself handles, or `_runtime/launcher.py` before the script begins, so scripts need not use them.
const HANDLED_BY_RUST: [&str; 8] = ["step", "overwrite", "dry_run", "offline", "runs_dir", "script", "nproc_per_node", "max_restarts"];

/// What Rust uses of a task with a data set to prepare what `session.dataset()` hands over: a script need not use it as well.
fn prepared_from() -> BTreeSet<String> {
    let params =
        resolve("prepare", PrepareParams::params(), Map::from_iter([("dataset_path".into(), json!(["d"]))]), Interface::Rust).unwrap();
    let Ok(serde_json::Value::Object(options)) = serde_json::to_value(Options::of(&params).unwrap()) else { panic!("an object") };
    options.keys().cloned().chain(DATASETS.map(ToString::to_string)).collect()
}

#[test]
fn a_script_and_its_modules_use_exactly_the_task_s_parameters() {
    for task in TASKS.iter().filter(|task| task.script.is_some()) {
        let (mut words, mut seen, mut texts) = (BTreeSet::new(), BTreeSet::new(), vec![task.source("").unwrap()]);
        let mut asked = BTreeSet::new();
        while let Some(text) = texts.pop() {
            words.extend(used_params(&text));
            asked.extend(DATASETS.into_iter().filter(|name| text.contains(&format!("session.dataset(\"{name}\")"))));
            for module in imported_modules(&text).into_iter().filter(|module| seen.insert(module.clone())) {
                let path = format!("python/pyrust_nn/{}", module.replace('.', "/"));
                let found = assets::text(&format!("{path}.py")).or_else(|| assets::text(&format!("{path}/__init__.py")));
                texts.extend(found.map(ToString::to_string));
            }
        }
        let defined: BTreeSet<String> =
            task.all_params().map(|param| param.name.to_string()).filter(|name| !HANDLED_BY_RUST.contains(&name.as_str())).collect();
        words.remove(IMATRIX_DATASET); // what `imatrix` names, if it is a data set
        if ["convert_lora_to_gguf", "flatten"].contains(&task.name) {
            words.insert("device".into()); // nothing is computed on a device there
        }
        let has: BTreeSet<&str> = DATASETS.into_iter().filter(|name| task.has(name)).collect();
        assert_eq!(asked, has, "{} takes the data sets that it has from the session", task.script.unwrap());
        let by_rust = if has.is_empty() { BTreeSet::new() } else { prepared_from() };
        words.extend(defined.intersection(&by_rust).cloned());
        assert_eq!(words, defined, "scripts/{} and the definition differ", task.script.unwrap());
    }
}

#[test]
fn the_list_of_names_is_that_of_the_tasks() {
    assert_eq!(TASK_NAMES.to_vec(), TASKS.iter().map(|task| task.name).collect::<Vec<_>>());
}

#[test]
fn task_names_are_valid_in_every_interface() {
    for task in TASKS {
        assert_eq!(task_named(task.name).unwrap().name, task.name);
        assert!(task.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    }
    assert!(task_named("finetune_lra").unwrap_err().to_string().contains("did you mean finetune_lora?"));
}

#[test]
fn only_set_fields_are_given() {
    let given = FinetuneLoraParams { lora_rank: 8, ..FinetuneLoraParams::new("data.json") }.given().unwrap();
    assert_eq!(given["lora_rank"], 8);
    assert_eq!(given["dataset_path"], json!(["data.json"]));
    for name in ["lora_alpha", "lora_dropout", "checkpoint_lora", "target_modules", "step", "runs_dir"] {
        assert!(!given.contains_key(name), "{name} was never set");
    }
}

#[test]
fn defaults_are_within_their_own_bounds() {
    let required = Map::from_iter([("dataset_path".to_string(), json!("data.json"))]);
    for params in [FinetuneFullParams::params(), FinetuneLoraParams::params()] {
        resolve("task", params, required.clone(), Interface::Rust).unwrap();
    }
    for params in [QuantizeModelParams::params(), ConvertModelToGgufParams::params(), FlattenParams::params(), MergeParams::params()] {
        resolve("task", params, Map::new(), Interface::Rust).unwrap();
    }
    let prompt = Map::from_iter([("prompt".to_string(), json!("hi"))]);
    resolve("task", InferenceParams::params(), prompt, Interface::Rust).unwrap();
}

#[test]
fn a_struct_built_in_rust_is_checked_against_the_same_bounds() {
    let new = || FinetuneLoraParams::new("data.json");
    for (params, named) in [
        (FinetuneLoraParams { num_epochs: -1.0, ..new() }, "num_epochs"),
        (FinetuneLoraParams { learning_rate: f64::NAN, ..new() }, "learning_rate"),
        (FinetuneLoraParams { lora_dropout: Some(f64::INFINITY), ..new() }, "lora_dropout"),
    ] {
        let error = resolve("finetune_lora", FinetuneLoraParams::params(), params.given().unwrap(), Interface::Rust).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}
