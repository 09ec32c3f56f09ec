//! The one check that every interface goes through: names, types, bounds, what is required; then the defaults.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::params::interface::Interface;
use crate::params::param::{Param, Presence};

/// Every parameter with its value: the given ones checked, the others by default (null where unset).
pub fn resolve<'a>(
    task: &str,
    params: impl IntoIterator<Item = &'a Param>,
    mut given: Map<String, Value>,
    interface: Interface,
) -> Result<Map<String, Value>> {
    let params: Vec<&Param> = params.into_iter().collect();
    for name in given.keys() {
        if !params.iter().any(|param| param.name == name) {
            let near = error::did_you_mean(name, params.iter().map(|param| param.name))
                .map(|near| format!("; did you mean {}?", interface.spell(near)));
            return Err(error::usage(format!(
                "{task} has no parameter {}{}",
                interface.spell(name),
                near.unwrap_or_else(|| format!("; see `pyrust-nn {} --help`", task.replace('_', "-")))
            )));
        }
    }
    let mut resolved = Map::new();
    for param in params {
        let value = match given.shift_remove(param.name) {
            None | Some(Value::Null) if param.presence == Presence::Required => {
                return Err(error::usage(format!("{task} needs {}: {}", interface.spell(param.name), param.help.trim())));
            }
            None | Some(Value::Null) => (param.default)(),
            Some(value) => {
                let shown = show(&value);
                param
                    .kind
                    .accept(value)
                    .ok_or_else(|| error::usage(format!("{} must be {}, not {shown}", interface.spell(param.name), param.kind.wanted())))?
            }
        };
        resolved.insert(param.name.to_string(), value);
    }
    Ok(resolved)
}

/// A value in a message: as JSON, so that "16" and 16 differ, and not longer than a line.
pub(crate) fn show(value: &Value) -> String {
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
    fn an_unknown_name_is_answered_with_the_near_one_in_the_door_s_spelling() {
        let message = |interface| lora(json!({"lora_rnk": 8}), interface).unwrap_err().to_string();
        assert!(message(Interface::Cli).ends_with("did you mean --lora-rank?"), "{}", message(Interface::Cli));
        assert!(message(Interface::Python).ends_with("did you mean lora_rank?"), "{}", message(Interface::Python));
    }

    #[test]
    fn json_s_own_types_are_checked() {
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
    fn null_leaves_a_parameter_out_and_whole_numbers_are_numbers() {
        let resolved = lora(json!({"lora_rank": null, "num_epochs": 2}), Interface::Python).unwrap();
        assert_eq!(resolved["lora_rank"], Value::Null);
        assert_eq!(resolved["num_epochs"], json!(2.0));
    }

    #[test]
    fn a_prompt_is_a_text_a_conversation_or_several() {
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
