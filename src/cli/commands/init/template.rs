//! The text of a new pipeline.toml: what is set, and every other parameter of the step as a comment with its default.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::params::group::Group;
use crate::params::param::{Param, Presence};
use crate::params::task::Task;
use crate::reference::SCHEMA_FILE;

/// What the file is made from.
#[derive(Debug)]
pub(crate) struct NewPipeline {
    pub task: &'static Task,
    /// The values that are set; model and data set among them.
    pub values: Map<String, Value>,
    /// Comments at the head.
    pub notes: Vec<String>,
}

/// Keys that stand above the steps.
const COMMON: [&str; 2] = ["model", "dataset_path"];

impl NewPipeline {
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "#:schema ./{SCHEMA_FILE}\n# A pipeline: `pyrust-nn run` runs its steps in order, `pyrust-nn run --dry-run` checks and shows them.\n"
        );
        for note in &self.notes {
            writeln!(text, "# {}", note.replace('\n', " ")).unwrap_or_default();
        }
        text.push_str(
            "\n# Keys above the steps go to every step that has such a parameter. A flag of `run`, such as --model, replaces them.\n",
        );
        for name in COMMON {
            match self.values.get(name) {
                Some(value) => writeln!(text, "{name} = {}", toml_text(value)),
                None => writeln!(text, "# {name} = \"…\"   # required"),
            }
            .unwrap_or_default();
        }
        writeln!(text, "\n[[step]]\ntask = \"{}\"", self.task.name).unwrap_or_default();
        for (name, value) in self.values.iter().filter(|(name, _)| !COMMON.contains(&name.as_str())) {
            writeln!(text, "{name} = {}", toml_text(value)).unwrap_or_default();
        }
        text.push_str("\n# Its other parameters with their defaults. Remove the first # of a line to set one.\n");
        self.write_others(&mut text);
        let (name, adapter) = (self.task.name, self.task.name == "finetune_lora");
        write!(text, "\n# \"@{name}\" is what that step made.\n[[step]]\ntask = \"inference\"\nmodel = \"@{name}\"\n").unwrap_or_default();
        text.push_str("prompt = [\"Who are you?\"]   # or prompts_file = \"prompts.txt\", with one prompt in each line\ntemperature = 0\n");
        if adapter {
            write!(text, "\n# The adapter merged into the model:\n# [[step]]\n# task = \"merge\"\n# model = \"@{name}\"\n")
                .unwrap_or_default();
        }
        let made = if adapter { "merge" } else { name };
        write!(
            text,
            "\n# For llama.cpp and Ollama:\n# [[step]]\n# task = \"convert_model_to_gguf\"\n# model = \"@{made}\"\n# outtype = [\"q8_0\"]\n"
        )
        .unwrap_or_default();
        text
    }

    fn write_others(&self, text: &mut String) {
        let left_out = [Group::Session, Group::Global];
        let mut params: Vec<&Param> = self.task.all_params().filter(|param| !left_out.contains(&param.group)).collect();
        params.retain(|param| !self.values.contains_key(param.name) && !COMMON.contains(&param.name));
        params.sort_by_key(|param| param.group);
        let mut group = None;
        for param in params {
            if group != Some(param.group) {
                writeln!(text, "#\n# {}", param.group.heading()).unwrap_or_default();
                group = Some(param.group);
            }
            let value = match (param.presence, param.fallback) {
                (Presence::Default, _) => toml_text(&(param.default)()),
                (_, Some(fallback)) => toml_text(&fallback()),
                _ => "…".to_string(),
            };
            let line = format!("# {} = {value}", param.name);
            writeln!(text, "{line:<40} # {}", first_sentence(param.help)).unwrap_or_default();
        }
    }
}

/// A value as TOML.
fn toml_text(value: &Value) -> String {
    match value {
        // An exponent where it is shorter: 2e-5.
        Value::Number(number) if number.is_f64() => crate::params::param::display_value(value),
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        Value::Object(_) => toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string()),
        other => other.to_string(),
    }
}

fn first_sentence(help: &str) -> &str {
    help.trim().split_inclusive(". ").next().unwrap_or_default().trim()
}
