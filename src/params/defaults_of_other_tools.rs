//! What other tools do where their configuration file says nothing, and we would do something else: `init --from` takes it over.
//!
//! Sources: transformers' `TrainingArguments` and LLaMA-Factory `src/llamafactory/hparams/finetuning_args.py`, Axolotl
//! `src/axolotl/utils/schemas`, Unsloth `unsloth_cli/config.py`, mlx-lm `mlx_lm/lora.py`.

use serde_json::{Value, json};

use crate::params::names_of_other_tools::Tool;

/// A default of another tool that changes what is trained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherDefault {
    pub tool: Tool,
    /// Their key.
    pub key: &'static str,
    pub value: OtherValue,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum OtherValue {
    Int(i64),
    Float(f64),
    Text(&'static str),
    On,
    /// A multiple of another key's value.
    Times(&'static str, i64),
}

use OtherValue::{Float, Int, On, Text, Times};
use Tool::{Axolotl, LlamaFactory, MlxLm, Unsloth};

const fn row(tool: Tool, key: &'static str, value: OtherValue) -> OtherDefault {
    OtherDefault { tool, key, value }
}

pub(crate) static OTHER_DEFAULTS: &[OtherDefault] = &[
    row(LlamaFactory, "learning_rate", Float(5e-5)),
    row(LlamaFactory, "lr_scheduler_type", Text("linear")),
    row(LlamaFactory, "per_device_train_batch_size", Int(8)),
    row(LlamaFactory, "lora_alpha", Times("lora_rank", 2)),
    row(LlamaFactory, "lora_dropout", Float(0.0)),
    row(Axolotl, "num_epochs", Int(1)),
    row(Axolotl, "micro_batch_size", Int(1)),
    row(Axolotl, "sequence_len", Int(512)),
    row(Axolotl, "lora_dropout", Float(0.0)),
    row(Unsloth, "training.load_in_4bit", On),
    row(Unsloth, "training.batch_size", Int(2)),
    row(Unsloth, "training.gradient_accumulation_steps", Int(4)),
    row(Unsloth, "training.warmup_steps", Int(5)),
    row(Unsloth, "training.weight_decay", Float(0.01)),
    row(Unsloth, "lora.lora_r", Int(64)),
    row(Unsloth, "lora.lora_alpha", Int(16)),
    row(Unsloth, "lora.lora_dropout", Float(0.0)),
    row(MlxLm, "learning_rate", Float(1e-5)),
    row(MlxLm, "lr_schedule.name", Text("constant")),
    row(MlxLm, "iters", Int(1000)),
    row(MlxLm, "num_layers", Int(16)),
    row(MlxLm, "lora_parameters.scale", Float(20.0)),
    row(MlxLm, "lora_parameters.dropout", Float(0.0)),
];

impl OtherDefault {
    /// The value in a file with these keys; `ours`: our default of the key that it is a multiple of.
    pub(crate) fn in_file(&self, keys: &[(String, Value)], ours: i64) -> Value {
        match self.value {
            Int(value) => json!(value),
            Float(value) => json!(value),
            Text(value) => json!(value),
            On => json!(true),
            Times(key, factor) => {
                let given = keys.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.as_i64());
                json!(given.unwrap_or(ours) * factor)
            }
        }
    }

    /// The value for the documentation.
    #[cfg(test)]
    pub(crate) fn in_words(&self) -> String {
        match self.value {
            Int(value) => format!("`{value}`"),
            Float(value) => format!("`{}`", json!(value)),
            Text(value) => format!("`{value}`"),
            On => "`true`".to_string(),
            Times(key, factor) => format!("`{key}` × {factor}"),
        }
    }
}
