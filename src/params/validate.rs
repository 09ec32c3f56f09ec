//! Validation that all interfaces share: names, types, bounds, required parameters and conflicts. Then the defaults are filled in.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::params::conflicts;
use crate::params::interface::Interface;
use crate::params::names_of_other_tools::suggestion;
use crate::params::param::{Param, Presence};
use crate::params::similar_value::similar_value;

/// What is wrong with a parameter.
#[derive(Debug)]
pub(crate) struct WrongParam {
    /// Its name, if it is one parameter.
    pub name: Option<String>,
    pub text: String,
}

/// Returns every parameter with its value: given ones are validated, others get their default (null if unset).
///
/// # Errors
/// Kind `usage`: unknown names, missing required parameters, values of the wrong type or out of bounds, each on a line; or values that
/// contradict each other.
pub fn resolve<'a>(
    task: &str,
    params: impl IntoIterator<Item = &'a Param>,
    given: Map<String, Value>,
    interface: Interface,
) -> Result<Map<String, Value>> {
    let joined = |wrong: Vec<WrongParam>| wrong.into_iter().map(|one| one.text).collect::<Vec<_>>().join("\n");
    resolve_or_list(task, params, given, interface).map_err(|wrong| error::usage(joined(wrong)))
}

/// [`resolve`] with all that is wrong as a list.
pub(crate) fn resolve_or_list<'a>(
    task: &str,
    params: impl IntoIterator<Item = &'a Param>,
    mut given: Map<String, Value>,
    interface: Interface,
) -> Result<Map<String, Value>, Vec<WrongParam>> {
    let params: Vec<&Param> = params.into_iter().collect();
    let mut wrong = Vec::new();
    for name in given.keys().filter(|name| !params.iter().any(|param| param.name == *name)) {
        let near = suggestion(name, params.iter().map(|param| param.name)).map(|near| format!("; did you mean {}?", interface.spell(near)));
        let fix = near.unwrap_or_else(|| format!("; see `pyrust-nn {} --help`", Interface::Cli.spell_task(task)));
        wrong.push(WrongParam {
            name: Some(name.clone()),
            text: format!("{} has no parameter {}{fix}", interface.spell_task(task), interface.spell(name)),
        });
    }
    let mut resolved = Map::new();
    for param in params {
        let value = match given.shift_remove(param.name) {
            None | Some(Value::Null) if param.presence == Presence::Required => Err(missing(task, param, interface)),
            None | Some(Value::Null) => Ok((param.default)()),
            Some(value) => accept(param, value, interface).map_err(|cause| cause.to_string()),
        };
        match value {
            Ok(value) => drop(resolved.insert(param.name.to_string(), value)),
            Err(text) => wrong.push(WrongParam { name: Some(param.name.to_string()), text }),
        }
    }
    if wrong.is_empty()
        && let Err(cause) = conflicts::check(&resolved, interface)
    {
        wrong.push(WrongParam { name: None, text: cause.to_string() });
    }
    if wrong.is_empty() { Ok(resolved) } else { Err(wrong) }
}

/// What to say of a required parameter without a value.
fn missing(task: &str, param: &Param, interface: Interface) -> String {
    // `Model: a folder, …` names the parameter again.
    let help = param.help.trim();
    let what = help.split_once(": ").filter(|(name, _)| name.chars().all(|c| c.is_alphabetic() || c == ' '));
    format!("{} needs {}: {}", interface.spell_task(task), interface.spell(param.name), what.map_or(help, |(_, what)| what))
}

/// The value of a parameter in its normal form.
///
/// # Errors
/// Kind `usage`: the wrong type, or out of bounds.
pub fn accept(param: &Param, value: Value, interface: Interface) -> Result<Value> {
    let shown = shorten(&value);
    let near = similar_value(param.value_type, &value).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let wrong = || error::usage(format!("{} must be {}, not {shown}{near}", interface.spell(param.name), param.value_type.expected()));
    param.value_type.accept(value).ok_or_else(wrong)
}

/// A value for a message: as JSON, so that "16" and 16 differ, and cut to one line.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::params::param::TaskParams;
    use crate::tasks::{FinetuneLoraParams, InferenceParams};

    fn lora(given: Value, interface: Interface) -> Result<Map<String, Value>> {
        let Value::Object(mut given) = given else { panic!("an object") };
        given.entry("dataset_path").or_insert(json!("data.json"));
        resolve("finetune_lora", FinetuneLoraParams::params(), given, interface)
    }

    #[test]
    fn an_unknown_name_gets_a_suggestion_in_the_interface_s_spelling() {
        let message = |interface| lora(json!({"lora_rnk": 8}), interface).unwrap_err().to_string();
        assert!(message(Interface::Cli).ends_with("did you mean --lora-rank?"), "{}", message(Interface::Cli));
        assert!(message(Interface::Python).ends_with("did you mean lora_rank?"), "{}", message(Interface::Python));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let message = lora(json!({"lora_rnk": 8, "learning_rate": 0, "dataset_path": 5}), Interface::Python).unwrap_err().to_string();
        let lines: Vec<&str> = message.lines().collect();
        assert!(lines.len() == 3 && lines[0].contains("no parameter lora_rnk"), "{message}");
        for words in ["dataset_path must be", "learning_rate must be"] {
            assert!(lines.iter().any(|line| line.starts_with(words)), "{words}\n{message}");
        }
    }

    #[test]
    fn a_missing_parameter_is_named_once() {
        for task in crate::tasks::TASKS {
            let message = resolve(task.name, task.all_params(), Map::new(), Interface::Cli).unwrap_err().to_string();
            let message = message.lines().next().unwrap();
            let (before, what) = message.split_once(": ").unwrap();
            assert_eq!(before, format!("{} needs {}", task.command(), Interface::Cli.spell(task.input.name)));
            assert!(!what.to_lowercase().starts_with(task.input.name) && what.len() > 10, "{message}");
        }
    }

    #[test]
    fn json_types_are_checked() {
        for (name, wrong) in [
            ("dataset_path", json!(5)),
            ("lora_rank", json!("16")),
            ("lora_rank", json!(true)),
            ("lora_rank", json!(8.5)),
            ("lora_rank", json!(0)),
            ("target_modules", json!([])),
            ("target_modules", json!("q_proj")),
            ("use_rslora", json!("yes")),
            ("overlong", json!("cut")),
            ("learning_rate", json!(0)),
            ("device", json!("gpu")),
        ] {
            let message = lora(json!({name: wrong}), Interface::Toml).expect_err(name).to_string();
            assert!(message.starts_with(name) && message.contains("must be"), "{message}");
        }
    }

    #[test]
    fn null_means_unset_and_integers_are_accepted_as_floats() {
        let resolved = lora(json!({"lora_rank": null, "num_epochs": 2}), Interface::Python).unwrap();
        assert_eq!(resolved["lora_rank"], Value::Null);
        assert_eq!(resolved["num_epochs"], json!(2.0));
    }

    #[test]
    fn a_prompt_is_a_string_a_conversation_or_several() {
        let conversation = json!([{"role": "user", "content": "hi"}]);
        for (given, wanted) in [
            (json!("hi"), json!(["hi"])),
            (conversation.clone(), json!([conversation])),
            (json!(["hi", conversation]), json!(["hi", conversation])),
        ] {
            let given = Map::from_iter([("prompt".to_string(), given)]);
            assert_eq!(resolve("inference", InferenceParams::params(), given, Interface::Python).unwrap()["prompt"], wanted);
        }
    }
}
