//! `pipeline.toml`: steps in order, each a task with its parameters. `@name` refers to the output of an earlier step.
//!
//! Tables `[for."<model>".<step>]` set parameters for one model: a model with random weights and a trained model need different
//! learning rates, and `--model` must not use the values of the other model.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::base::clock::now;
use crate::base::error;
use crate::base::similar_path::or_similar;
use crate::gguf::FILE_TYPES;
use crate::params::interface::Interface;
use crate::params::names_of_other_tools::suggestion;
use crate::params::param::MODEL;
use crate::params::similar_value::similar_name;
use crate::params::task::Task;
use crate::params::validate::accept;
use crate::pipeline::execution_plan::ExecutionPlan;
use crate::pipeline::pipeline_errors::{KeyLines, PipelineErrors, line_at};
use crate::session::artifact::{names_in, without_outtype};
use crate::session::names::{new_pipeline_run, new_session_id};
use crate::step::request::Request;
use crate::tasks::{TASKS, task_named};

/// The default file of `run`.
pub const FILE: &str = "pipeline.toml";

/// The content of a pipeline file.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The file, for messages.
    file: String,
    pub(super) session: Option<String>,
    /// Parameters for every step whose task has them.
    pub(super) common: Map<String, Value>,
    /// `[for."<model>".<step>]`: parameters of a step that apply to one model only.
    per_model: Map<String, Value>,
    steps: Vec<(&'static Task, Map<String, Value>)>,
    pub(super) lines: KeyLines,
}

impl Pipeline {
    /// Reads and checks a pipeline file.
    pub fn read(path: &Path) -> Result<Pipeline> {
        let shown = path.display().to_string();
        if is_data(path) {
            return Err(error::usage(format!(
                "{shown} is a data set, and a pipeline file is TOML, such as pipeline.toml; `pyrust-nn finetune-lora {shown} -m MODEL` trains \
                 on it, `pyrust-nn init -m MODEL -d {shown}` writes a pipeline for it"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => {
                let is_pipeline = |path: &Path| path.extension().is_some_and(|extension| extension == "toml");
                let fix = or_similar(path, &is_pipeline, "give another file, or write one with `pyrust-nn init`");
                error::usage(format!("there is no pipeline file {shown}; {fix}"))
            }
            _ => error::usage(format!("pipeline file {shown} cannot be read: {cause}")),
        })?;
        Pipeline::parse(&text, &shown)
    }

    /// The parameters of `[for."<model>".<step>]`, if there is such a table.
    pub(crate) fn of_model(&self, model: &str, step: &str) -> Option<&Map<String, Value>> {
        self.per_model.get(model)?.get(step)?.as_object()
    }

    /// Reads the text of a file. `file` is its name, for messages.
    pub fn parse(text: &str, file: &str) -> Result<Pipeline> {
        let table: toml::Table = toml::from_str(text).map_err(|cause| {
            let line = cause.span().map(|span| format!(", line {}", line_at(text, span))).unwrap_or_default();
            error::usage(format!("{file}{line}: invalid TOML: {}", cause.message()))
        })?;
        let lines = KeyLines::of(text);
        let mut errors = PipelineErrors::in_file(file, lines.clone(), "");
        let mut common: Map<String, Value> = table.into_iter().map(|(key, value)| (key, to_json(value))).collect();
        let session = match common.shift_remove("session") {
            None => None,
            Some(Value::String(session)) => Some(session),
            Some(other) => {
                errors.add(&["session"], format!("session must be a string, not {other}"));
                None
            }
        };
        let per_model = match common.shift_remove("for") {
            None => Map::new(),
            Some(Value::Object(per_model)) => per_model,
            Some(_) => {
                errors.add(&["for"], WRONG_FOR);
                Map::new()
            }
        };
        let rows = match common.shift_remove("step") {
            Some(Value::Array(rows)) if !rows.is_empty() => rows,
            _ => {
                errors.add(&["step"], "the pipeline has no steps; write [[step]] with task = \"finetune_lora\"");
                Vec::new()
            }
        };
        let (mut steps, all_named) = (Vec::new(), !rows.is_empty());
        for (i, row) in rows.into_iter().enumerate() {
            let (index, number) = (i.to_string(), i + 1);
            let Value::Object(mut given) = row else {
                errors.add(&["step", &index], format!("step {number} is not a table; write [[step]]"));
                continue;
            };
            let Some(Value::String(task)) = given.shift_remove("task") else {
                errors.add(&["step", &index], format!("step {number} has no task; write task = \"finetune_lora\""));
                continue;
            };
            match task_named(&task) {
                Ok(task) => {
                    if let Some(name) = given.shift_remove("name") {
                        given.insert("step".into(), name);
                    }
                    steps.push((task, given));
                }
                Err(cause) => errors.add(&["step", &index, "task"], format!("step {number}: {cause}")),
            }
        }
        common.keys().filter_map(|key| Some((key, unknown(key)?))).for_each(|(key, text)| errors.add(&[key], text));
        if all_named {
            check_per_model(&per_model, &steps, &mut errors);
        }
        errors.into_result()?;
        Ok(Pipeline { file: file.to_string(), session, common, per_model, steps, lines })
    }

    /// Applies the caller's values, and resolves and checks all steps. A value of the caller replaces that of the file in every step whose
    /// task has the parameter, but no reference to an earlier step.
    pub fn with(mut self, mut overrides: Map<String, Value>, session: Option<String>, interface: Interface) -> Result<ExecutionPlan> {
        overrides.retain(|_, value| !value.is_null());
        for (key, value) in &overrides {
            if let Some(text) = unknown(key) {
                return Err(error::usage(format!("{text} (top-level parameter of the pipeline, given through {interface:?})")));
            }
            let param = TASKS.iter().flat_map(|task| task.all_params()).find(|param| param.name == key);
            param.map(|param| accept(param, value.clone(), interface)).transpose()?;
        }
        self.common.extend(overrides.clone());
        let mut unused: Vec<&String> = overrides.keys().collect();
        let named = session.or(self.session);
        let session = named.clone().unwrap_or_else(new_session_id);
        let model = self.common.get(MODEL.name).and_then(Value::as_str).unwrap_or_default().to_string();
        let for_model = self.per_model.get(&model).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut errors = PipelineErrors::in_file(&self.file, self.lines, &model);
        let mut names: Vec<String> = Vec::new();
        let mut steps = Vec::new();
        for (i, (task, own)) in self.steps.into_iter().enumerate() {
            let name = step_name(task, &own).to_string();
            let mut given: Map<String, Value> =
                self.common.iter().filter(|(key, _)| task.has(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
            if let Some(Value::Object(more)) = for_model.get(&name) {
                given.extend(more.clone());
            }
            given.extend(own);
            for (key, value) in &overrides {
                if task.has(key) && !given.get(key).is_some_and(is_reference) {
                    unused.retain(|unused| *unused != key);
                    given.insert(key.clone(), value.clone());
                }
            }
            for param in task.all_params().filter(|param| param.value_type.is_artifact()) {
                let references = names_in(given.get(param.name)).filter_map(|value| value.strip_prefix('@'));
                for text in references.filter_map(|reference| wrong_reference(reference, &names)) {
                    errors.add_to_step((i, &name), Some(param.name), text);
                }
            }
            if names.contains(&name) {
                let text = format!("two steps have the name {name}; rename one of them with name = \"...\"");
                errors.add_to_step((i, &name), Some("step"), text);
            }
            names.push(name);
            let is_dry = given.get("dry_run") == Some(&Value::Bool(true));
            // A dry run names no session that the run will not have.
            let session = if is_dry { named.clone() } else { Some(session.clone()) };
            steps.push(Request::new(task, session, given, if interface == Interface::Rust { Interface::Rust } else { Interface::Toml }));
        }
        // Stored in session.json, so that an interrupted pipeline can be resumed.
        let rows: Vec<Value> = steps.iter().map(|one| json!({"task": one.task.name, "given": one.given})).collect();
        let plan =
            json!({"id": new_pipeline_run(), "started_at": now(), "cwd": std::env::current_dir().unwrap_or_default(), "steps": rows});
        for one in &mut steps {
            one.plan = Some(plan.clone());
        }
        // A step with an error may be the one that has the parameter.
        if let Some(key) = unused.first().filter(|_| errors.is_empty()) {
            return Err(error::usage(format!(
                "{} changes nothing: no step of {} has this parameter with a value of its own; omit it",
                interface.spell(key),
                self.file
            )));
        }
        ExecutionPlan { session, steps }.checked(errors)
    }
}

/// Whether a file's name says that it is a data set.
fn is_data(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = [".gz", ".zst", ".zip"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    let ends = [".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow"];
    path.is_file() && ends.iter().any(|end| name.ends_with(end))
}

const WRONG_FOR: &str = "\"for\" must be tables: [for.\"<model>\".<step>]";

/// What is wrong with a reference, without its `@`, to one of the earlier steps `names`.
fn wrong_reference(reference: &str, names: &[String]) -> Option<String> {
    let reference = without_outtype(reference).0;
    let is_earlier = |step: &str| names.iter().any(|known| known == step);
    if is_earlier(reference) {
        return None;
    }
    if let Some((step, outtype)) = reference.rsplit_once(':').filter(|(step, _)| is_earlier(step)) {
        let near = similar_name(outtype, &FILE_TYPES.map(|of| of.name)).map(|near| format!("; did you mean @{step}:{near}?"));
        return Some(format!("{outtype} is not a type of GGUF files{}", near.unwrap_or_default()));
    }
    let near = error::did_you_mean(reference, names.iter().map(String::as_str)).map(|near| format!("; did you mean @{near}?"));
    let all = || format!("; earlier steps: {}", if names.is_empty() { "none".into() } else { names.join(", ") });
    Some(format!("@{reference} is not an earlier step{}", near.unwrap_or_else(all)))
}

fn step_name<'a>(task: &Task, own: &'a Map<String, Value>) -> &'a str {
    own.get("step").and_then(Value::as_str).unwrap_or(task.name)
}

/// Whether a value refers to an earlier step.
fn is_reference(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with('@'))
}

/// Converts a TOML value to JSON. NaN and infinity become strings, so that validation rejects them with their value in the message.
fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::Float(number) if !number.is_finite() => number.to_string().into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Array(items) => items.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, to_json(value))).collect::<Map<_, _>>().into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::String(text) => text.into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
    }
}

/// Checks that each `[for."<model>".<step>]` names an existing step. Otherwise it would be ignored silently.
fn check_per_model(per_model: &Map<String, Value>, steps: &[(&'static Task, Map<String, Value>)], errors: &mut PipelineErrors) {
    for (model, tables) in per_model {
        let Some(tables) = tables.as_object() else {
            errors.add(&["for", model], WRONG_FOR);
            continue;
        };
        for (step, table) in tables {
            let names = || steps.iter().map(|(task, own)| step_name(task, own));
            if !table.is_object() {
                errors.add(&["for", model, step], WRONG_FOR);
            } else if !names().any(|name| name == step) {
                let near = error::did_you_mean(step, names()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                errors.add(&["for", model, step], format!("[for.\"{model}\".{step}]: there is no step {step}{near}"));
            }
        }
    }
}

/// What to say of a top-level key that is a parameter of no task.
fn unknown(key: &str) -> Option<String> {
    if TASKS.iter().any(|task| task.has(key)) {
        return None;
    }
    let names = TASKS.iter().flat_map(|task| task.all_params().map(|param| param.name));
    let near = suggestion(key, names.chain(["step", "session", "for"])).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Some(format!("no task has the parameter {key}{near}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"
        model = "builtin:tiny"
        dataset_path = "data.json"
        seed = 7
        [for."builtin:tiny".finetune_full]
        learning_rate = 0.003
        [[step]]
        task = "finetune_full"
        num_epochs = 2
        [[step]]
        task = "quantize_model"
        name = "small"
        model = "@finetune_full"
    "#;

    #[test]
    fn top_level_keys_apply_to_steps_that_have_them_and_a_step_s_own_values_win() {
        let plan = Pipeline::parse(TEXT, FILE).unwrap().with(Map::new(), Some("s".into()), Interface::Toml).unwrap();
        let given = &plan.steps[0].given;
        assert_eq!((&given["seed"], &given["learning_rate"], &given["model"]), (&json!(7), &json!(0.003), &json!("builtin:tiny")));
        assert!(!plan.steps[1].given.contains_key("seed"));
        assert_eq!((&plan.steps[1].given["model"], &plan.steps[1].given["step"]), (&json!("@finetune_full"), &json!("small")));
    }

    #[test]
    fn per_model_parameters_apply_only_to_that_model() {
        let model = Map::from_iter([("model".to_string(), json!("Qwen/Qwen1.5-0.5B-Chat"))]);
        let plan = Pipeline::parse(TEXT, FILE).unwrap().with(model, None, Interface::Cli).unwrap();
        assert_eq!(plan.steps[0].given["model"], "Qwen/Qwen1.5-0.5B-Chat");
        assert!(!plan.steps[0].given.contains_key("learning_rate"));
    }

    fn plan(text: &str, overrides: &Value) -> Result<ExecutionPlan> {
        Pipeline::parse(text, FILE)?.with(overrides.as_object().unwrap().clone(), Some("s".into()), Interface::Cli)
    }

    #[test]
    fn a_caller_s_value_replaces_a_step_s_own_but_no_reference() {
        let plan = plan(TEXT, &json!({"num_epochs": 5, "learning_rate": 0.1, "model": "m", "seed": null})).unwrap();
        let given = &plan.steps[0].given;
        assert_eq!((&given["num_epochs"], &given["learning_rate"], &given["model"]), (&json!(5), &json!(0.1), &json!("m")));
        assert_eq!(given["seed"], 7, "None is no value");
        assert_eq!(plan.steps[1].given["model"], "@finetune_full");
        assert!(!plan.steps[1].given.contains_key("num_epochs"), "quantize_model has no such parameter");
    }

    #[test]
    fn a_caller_s_value_is_checked_as_the_caller_spells_it_and_must_change_a_step() {
        for (overrides, words) in [
            (json!({"num_epochs": -1}), "--num-epochs must be"),
            (json!({"temperature": 0}), "--temperature changes nothing"),
            (json!({"checkpoint_lora": "x"}), "--checkpoint-lora changes nothing"),
        ] {
            let message = plan(TEXT, &overrides).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn the_sample_s_values_for_noise_reach_no_other_model() {
        let text = crate::base::assets::text(FILE).unwrap();
        let epochs = |overrides: &Value| plan(text, overrides).unwrap().steps[0].given.get("num_epochs").cloned();
        assert_eq!(epochs(&json!({})), Some(json!(40)));
        assert_eq!(epochs(&json!({"model": "Qwen/Qwen3-0.6B"})), None);
        assert_eq!(epochs(&json!({"model": "Qwen/Qwen3-0.6B", "num_epochs": 2})), Some(json!(2)));
        let full = &plan(text, &json!({"model": "Qwen/Qwen3-0.6B"})).unwrap().steps[0];
        for name in ["num_epochs", "learning_rate", "warmup", "scheduler"] {
            assert!(!full.given.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_wrong_value_of_a_later_step_is_found_at_the_start() {
        for interface in [Interface::Cli, Interface::Python, Interface::Rust] {
            let text = format!("{TEXT}\nbits = 5\n");
            let message = Pipeline::parse(&text, "p.toml").unwrap().with(Map::new(), None, interface).unwrap_err().to_string();
            assert_eq!(message, "p.toml, line 15, step small: bits must be one of 4, 8, 16, not 5", "{interface:?}");
        }
    }

    #[test]
    fn all_errors_are_found_at_once_each_with_its_line() {
        let text = "model = 'builtin:tiny'\nseeed = 1\n[[step]]\ntask = 'mrge'\n[[step]]\nname = 'x'\n[for.m.y]\nseed = 1\n";
        let message = Pipeline::parse(text, "p.toml").unwrap_err().to_string();
        let starts =
            ["p.toml, line 4: step 1: ", "p.toml, line 5: step 2 has no task", "p.toml, line 2: no task has", "p.toml, line 7: [for."];
        assert!(message.lines().count() == 4, "{message}");
        for start in starts {
            assert!(message.lines().any(|line| line.starts_with(start)), "{start}\n{message}");
        }
        let text =
            "model = 'm'\nseed = -1\n[[step]]\ntask = 'merge'\n[[step]]\ntask = 'quantize_model'\nmodel = '@mrge'\nbits = 5\nbit = 4\n";
        let message = plan(text, &json!({})).unwrap_err().to_string();
        let starts =
            ["p.toml, line 7, step quantize_model: @mrge", "line 8, step quantize_model: bits must", "line 9, step quantize_model: "];
        assert!(message.lines().count() == 3, "{message}");
        for start in starts {
            assert!(message.contains(start.trim_start_matches("p.toml, ")), "{start}\n{message}");
        }
    }

    #[test]
    fn errors_are_reported() {
        for (text, wanted) in [
            ("model = 1", "no steps"),
            ("[[step]]\ntask = \"finetune_lra\"", "did you mean finetune_lora?"),
            ("modle = \"x\"\n[[step]]\ntask = \"merge\"", "did you mean model?"),
            ("[[step]]\ntask = \"merge\"\nmodel = \"@finetune\"", "not an earlier step"),
            ("[[step]]\ntask = \"merge\"\n[[step]]\ntask = \"merge\"", "two steps"),
            ("[[step]\n", "expected"),
            ("step = []", "no steps"),
            ("[for.\"builtin:tiny\".mrege]\nx = 1\n[[step]]\ntask = \"merge\"", "did you mean merge?"),
            ("[for]\nx = 1\n[[step]]\ntask = \"merge\"", "must be tables"),
        ] {
            let error = Pipeline::parse(text, FILE).and_then(|pipeline| pipeline.with(Map::new(), None, Interface::Toml)).expect_err(text);
            assert!(format!("{error:#}").contains(wanted), "{error:#}");
        }
    }
}
