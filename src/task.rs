//! One row per task: its name, what it works on, its parameters, its script. To add a task, add a row and its script.

use std::path::Path;

use anyhow::Result;

use crate::embedded;
use crate::error;
use crate::params::{
    ADAPTER, ConvertLoraToGgufParams, ConvertModelToGgufParams, FinetuneFullParams, FinetuneLoraParams, FlattenParams, InferenceParams,
    MODEL, MergeParams, Param, QuantizeModelParams, SCRIPT, ScriptParams, TaskParams,
};

/// A task.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    pub name: &'static str,
    pub about: &'static str,
    /// What it works on: the second argument at every door.
    pub subject: &'static Param,
    pub params: fn() -> &'static [Param],
    /// File in `scripts/`; empty where the user brings the script.
    pub script: &'static str,
}

/// Every task, in the order in which one meets them.
pub static TASKS: [Task; 9] = [
    Task {
        name: "finetune_full",
        about: "Train every weight of the model",
        subject: &MODEL,
        params: FinetuneFullParams::params,
        script: "finetune_full.py",
    },
    Task {
        name: "finetune_lora",
        about: "Train a LoRA adapter beside the frozen model, go on with one, or stack a new one upon it",
        subject: &MODEL,
        params: FinetuneLoraParams::params,
        script: "finetuning_lora.py",
    },
    Task {
        name: "flatten",
        about: "Join stacked adapters into one adapter",
        subject: &MODEL,
        params: FlattenParams::params,
        script: "flatten.py",
    },
    Task {
        name: "merge",
        about: "Join an adapter and its base into a plain model",
        subject: &MODEL,
        params: MergeParams::params,
        script: "merge.py",
    },
    Task {
        name: "quantize_model",
        about: "Make a smaller copy of the model: 4, 8 or 16 bit",
        subject: &MODEL,
        params: QuantizeModelParams::params,
        script: "quantize_model.py",
    },
    Task {
        name: "convert_model_to_gguf",
        about: "Write the model as GGUF, for llama.cpp and Ollama",
        subject: &MODEL,
        params: ConvertModelToGgufParams::params,
        script: "model_to_gguf.py",
    },
    Task {
        name: "convert_lora_to_gguf",
        about: "Write a LoRA adapter as GGUF",
        subject: &ADAPTER,
        params: ConvertLoraToGgufParams::params,
        script: "lora_to_gguf.py",
    },
    Task { name: "inference", about: "Let the model answer", subject: &MODEL, params: InferenceParams::params, script: "inference.py" },
    Task { name: "script", about: "Run a script of your own", subject: &SCRIPT, params: ScriptParams::params, script: "" },
];

impl Task {
    /// The task of that name.
    pub fn named(name: &str) -> Result<&'static Task> {
        TASKS.iter().find(|task| task.name == name).ok_or_else(|| {
            let near = error::did_you_mean(name, TASKS.iter().map(|task| task.name)).map(|near| format!("; did you mean {near}?"));
            let all = TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
            error::usage(format!("there is no task {name:?}{}", near.unwrap_or_else(|| format!("; the tasks are {all}"))))
        })
    }

    /// As a command: dashes for underscores.
    pub fn command(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The subject and the parameters: everything that a caller may name.
    pub fn all_params(&self) -> impl Iterator<Item = &'static Param> + use<> {
        std::iter::once(self.subject).chain((self.params)())
    }

    /// The script's text: our own by its name, the user's from its file.
    pub fn source(&self, subject: &str) -> Result<String> {
        if !self.script.is_empty() {
            return Ok(embedded::text(&format!("scripts/{}", self.script)).unwrap_or_default().to_string());
        }
        let path = Path::new(subject);
        if path.extension().is_none_or(|extension| extension != "py") {
            return Err(error::usage(format!("script {subject} is no .py file; give a Python file with run(params, session)")));
        }
        std::fs::read_to_string(path).map_err(|cause| error::input(format!("script {subject} cannot be read: {cause}; check the path")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The words after `params.` in a text.
    fn used(text: &str) -> BTreeSet<String> {
        text.match_indices("params.")
            .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.'))
            .map(|(at, word)| text[at + word.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
            .collect()
    }

    /// The modules of `pyrust_nn` that a text imports.
    fn imported(text: &str) -> BTreeSet<String> {
        let words = text.match_indices("from pyrust_nn.").map(|(at, word)| &text[at + word.len()..]);
        words.map(|rest| rest.split_whitespace().next().unwrap_or_default().to_string()).collect()
    }

    /// What Rust itself uses of every task, so that scripts need not.
    const RUST: [&str; 6] = ["step", "overwrite", "dry_run", "offline", "runs_dir", "script"];

    #[test]
    fn a_script_and_what_it_shares_use_exactly_their_parameters() {
        for task in TASKS.iter().filter(|task| !task.script.is_empty()) {
            let (mut words, mut seen, mut texts) = (BTreeSet::new(), BTreeSet::new(), vec![task.source("").unwrap()]);
            while let Some(text) = texts.pop() {
                words.extend(used(&text));
                for module in imported(&text).into_iter().filter(|module| seen.insert(module.clone())) {
                    let path = format!("python/pyrust_nn/{}", module.replace('.', "/"));
                    let found = embedded::text(&format!("{path}.py")).or_else(|| embedded::text(&format!("{path}/__init__.py")));
                    texts.extend(found.map(ToString::to_string));
                }
            }
            let defined: BTreeSet<String> =
                task.all_params().map(|param| param.name.to_string()).filter(|name| !RUST.contains(&name.as_str())).collect();
            if ["convert_lora_to_gguf", "flatten"].contains(&task.name) {
                words.insert("device".into()); // no model is computed there, so any device will do
            }
            assert_eq!(words, defined, "{} and params.rs differ", task.script);
        }
    }

    #[test]
    fn a_task_s_name_is_a_name_at_every_door() {
        for task in &TASKS {
            assert_eq!(Task::named(task.name).unwrap().name, task.name);
            assert!(task.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        assert!(Task::named("finetune_lra").unwrap_err().to_string().contains("did you mean finetune_lora?"));
    }
}
