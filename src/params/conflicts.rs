//! Combinations of a step's parameters that cannot work, whatever the model, the data and the machine are.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::base::numbers::counted;
use crate::params::interface::Interface;

/// Refuses parameters that contradict each other, or that need another one. `params` are all parameters of a step, with their values.
///
/// # Errors
/// Kind `usage`.
pub(super) fn check(params: &Map<String, Value>, interface: Interface) -> Result<()> {
    let has = |name: &str| params.contains_key(name);
    let given = |name: &str| params.get(name).is_some_and(is_set);
    let spell = |name: &str| interface.spell(name);
    if has("early_stopping_patience") {
        if given("eval_dataset_path") && given("eval_split") {
            return Err(error::usage(format!(
                "{} and {} cannot both be set, since each says what to evaluate on; set one of them",
                spell("eval_dataset_path"),
                spell("eval_split")
            )));
        }
        let evaluates = given("eval_dataset_path") || given("eval_split");
        let needing = ["eval_steps", "early_stopping_patience", "load_best_model_at_end"];
        if let Some(name) = needing.into_iter().find(|name| !evaluates && given(name)) {
            let (data, split) = (spell("eval_dataset_path"), spell("eval_split"));
            return Err(error::usage(format!("{} needs data to evaluate on; set {data} or {split}", spell(name))));
        }
        if params["dtype"] == "fp16" && params["device"] == "cpu" {
            return Err(fp16_needs_cuda(interface));
        }
        if params["packing"] == "on" && given("neftune_alpha") {
            return Err(error::usage(format!(
                "{} cannot be on: {} scales its noise by the length of a row; set it to auto",
                spell("packing"),
                spell("neftune_alpha")
            )));
        }
    }
    if has("checkpoint_mode") && params["checkpoint_mode"] == "stack" {
        let stack = format!("{} stack", spell("checkpoint_mode"));
        if !given("checkpoint_lora") {
            return Err(error::usage(format!("{stack} needs an adapter to stack on; give it as {}", spell("checkpoint_lora"))));
        }
        if given("use_dora") {
            return Err(error::usage(format!(
                "{} cannot be combined with {stack}: DoRA scales the base's weights without the parents' changes; merge the parents first \
                 (task merge), or leave {} out",
                spell("use_dora"),
                spell("use_dora")
            )));
        }
    }
    if has("double_quant") && params["bits"] != 4 {
        let other = [("quant_type", params["quant_type"] != "nf4"), ("double_quant", given("double_quant"))];
        if let Some((name, _)) = other.into_iter().find(|(_, set)| *set) {
            let (name, bits) = (spell(name), spell("bits"));
            return Err(error::usage(format!(
                "{name} is for 4 bits, and {bits} is {}; leave {name} out, or set {bits} to 4",
                params["bits"]
            )));
        }
    }
    if has("prompt") && has("prompts_file") && !given("prompt") && !given("prompts_file") {
        let (prompt, file) = (spell("prompt"), spell("prompts_file"));
        return Err(error::usage(format!("there is nothing to answer: give {prompt} (it may repeat) or {file}")));
    }
    if has("n") && has("prompt") && params["n"] != 1 && params["temperature"].as_f64() == Some(0.0) {
        let (n, temperature) = (spell("n"), spell("temperature"));
        return Err(error::usage(format!("all {n} answers would be the same at {temperature} 0; raise {temperature}, or leave {n} out")));
    }
    if given("adapter_scale") {
        let count = |name: &str| params.get(name).and_then(Value::as_array).map_or(0, Vec::len) as u64;
        let (adapters, scales) = (count("adapter"), count("adapter_scale"));
        if adapters != scales {
            return Err(error::usage(format!(
                "{} names {} and {} has {}; give one scale for each adapter",
                spell("adapter"),
                counted(adapters, "adapter"),
                spell("adapter_scale"),
                counted(scales, "scale")
            )));
        }
    }
    Ok(())
}

/// The error of a training in fp16 without a GPU.
pub(crate) fn fp16_needs_cuda(interface: Interface) -> anyhow::Error {
    error::usage(format!(
        "training in fp16 needs a CUDA device, since its loss must be scaled; set {} to bf16 or fp32",
        interface.spell("dtype")
    ))
}

/// Whether a value differs from all that mean "off": null, false, 0, an empty list.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(items) => !items.is_empty(),
        Value::Bool(true) | Value::String(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::error::{Error, Kind};
    use crate::params::validate::resolve;
    use crate::tasks::task_named;

    fn checked(task: &str, given: Value, interface: Interface) -> Result<Map<String, Value>> {
        let task = task_named(task).unwrap();
        resolve(task.name, task.all_params(), given.as_object().unwrap().clone(), interface)
    }

    #[test]
    fn what_cannot_work_together_is_refused_in_the_spelling_of_the_interface() {
        let lora = |more: Value| {
            let mut given = json!({"model": "m", "dataset_path": "d.json"});
            given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            ("finetune_lora", given)
        };
        for ((task, given), words) in [
            (lora(json!({"early_stopping_patience": 2})), "--early-stopping-patience needs data to evaluate on; set --eval-dataset-path"),
            (lora(json!({"eval_steps": 2})), "--eval-steps needs data"),
            (lora(json!({"load_best_model_at_end": true})), "--load-best-model-at-end needs data"),
            (lora(json!({"eval_split": 0.5, "eval_dataset_path": "e.json"})), "--eval-dataset-path and --eval-split cannot both be set"),
            (lora(json!({"dtype": "fp16", "device": "cpu"})), "set --dtype to bf16 or fp32"),
            (lora(json!({"packing": "on", "neftune_alpha": 5})), "--packing cannot be on: --neftune-alpha"),
            (lora(json!({"checkpoint_mode": "stack"})), "give it as --checkpoint-lora"),
            (lora(json!({"checkpoint_mode": "stack", "checkpoint_lora": "a", "use_dora": true})), "--use-dora cannot be combined"),
            (("inference", json!({"model": "m"})), "give --prompt (it may repeat) or --prompts-file"),
            (
                ("inference", json!({"model": "m.gguf", "prompt": "hi", "adapter": ["a.gguf"], "adapter_scale": [1, 2]})),
                "--adapter names 1 adapter and --adapter-scale has 2 scales",
            ),
        ] {
            let error = Error::of(&checked(task, given.clone(), Interface::Cli).expect_err(words));
            assert_eq!(error.kind, Kind::Usage);
            assert!(error.message.contains(words), "{}", error.message);
            let message = checked(task, given, Interface::Python).unwrap_err().to_string();
            assert!(!message.contains("--"), "{message}");
        }
        for (task, given) in [
            lora(json!({"early_stopping_patience": 2, "eval_split": 0.1})),
            lora(json!({"eval_steps": 0})),
            lora(json!({"dtype": "fp16"})),
            ("inference", json!({"model": "m", "prompts_file": "p.txt"})),
        ] {
            checked(task, given, Interface::Cli).unwrap();
        }
    }
}
