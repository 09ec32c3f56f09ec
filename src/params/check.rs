//! The one check that every door goes through: names, types, bounds, what is required; then the defaults.

use anyhow::Result;
use serde_json::{Map, Value};

use super::{Param, Presence};
use crate::error;

/// Where parameters came from; decides how a message spells their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Cli,
    Toml,
    Python,
    Rust,
}

impl Door {
    /// `--lora-rank` for a command line, `lora_rank` elsewhere.
    pub fn spell(self, name: &str) -> String {
        match self {
            // One `--param name=value` for each of a script's own.
            Door::Cli if name == "params" => "--param".to_string(),
            Door::Cli => format!("--{}", name.replace('_', "-")),
            _ => name.to_string(),
        }
    }
}

/// Every parameter with its value: the given ones checked, the others by default (null where unset).
pub fn resolve<'a>(
    task: &str,
    params: impl IntoIterator<Item = &'a Param>,
    mut given: Map<String, Value>,
    door: Door,
) -> Result<Map<String, Value>> {
    let params: Vec<&Param> = params.into_iter().collect();
    for name in given.keys() {
        if !params.iter().any(|param| param.name == name) {
            let near = error::did_you_mean(name, params.iter().map(|param| param.name))
                .map(|near| format!("; did you mean {}?", door.spell(near)));
            return Err(error::usage(format!(
                "{task} has no parameter {}{}",
                door.spell(name),
                near.unwrap_or_else(|| format!("; see `pyrust-nn {} --help`", task.replace('_', "-")))
            )));
        }
    }
    let mut resolved = Map::new();
    for param in params {
        let value = match given.shift_remove(param.name) {
            None | Some(Value::Null) if param.presence == Presence::Required => {
                return Err(error::usage(format!("{task} needs {}: {}", door.spell(param.name), param.help.trim())));
            }
            None | Some(Value::Null) => (param.default)(),
            Some(value) => {
                let shown = show(&value);
                param
                    .kind
                    .accept(value)
                    .ok_or_else(|| error::usage(format!("{} must be {}, not {shown}", door.spell(param.name), param.kind.wanted())))?
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
    use crate::params::{FinetuneLoraParams, InferenceParams, TaskParams};

    fn lora(given: Value, door: Door) -> Result<Map<String, Value>> {
        let Value::Object(mut given) = given else { panic!("an object") };
        given.entry("dataset_path").or_insert(json!("data.json"));
        resolve("finetune_lora", FinetuneLoraParams::params(), given, door)
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_near_one_in_the_door_s_spelling() {
        let message = |door| lora(json!({"lora_rnk": 8}), door).unwrap_err().to_string();
        assert!(message(Door::Cli).ends_with("did you mean --lora-rank?"), "{}", message(Door::Cli));
        assert!(message(Door::Python).ends_with("did you mean lora_rank?"), "{}", message(Door::Python));
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
            let message = lora(json!({name: wrong}), Door::Toml).expect_err(name).to_string();
            assert!(message.starts_with(name) && message.contains("must be"), "{message}");
        }
    }

    #[test]
    fn null_leaves_a_parameter_out_and_whole_numbers_are_numbers() {
        let resolved = lora(json!({"lora_rank": null, "num_epochs": 2}), Door::Python).unwrap();
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
            assert_eq!(resolve("inference", InferenceParams::params(), given, Door::Python).unwrap()["prompt"], wanted);
        }
    }
}
