//! Reads the configuration file of another tool. `params/names_of_other_tools.rs` has the names; this file, how values become ours.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::base::error;
use crate::base::similar_path::or_similar;
use crate::cli::commands::init::other_data::{count_rows, data_files};
use crate::cli::text::counted;
use crate::dataset::entry::Entry;
use crate::dataset::open::paths;
use crate::params::defaults_of_other_tools::OTHER_DEFAULTS;
use crate::params::interface::Interface;
use crate::params::lora_defaults;
use crate::params::names_of_other_tools::{Conversion, NOT_NEEDED, OTHER_NAMES, OtherName, Tool};
use crate::params::task::Task;
use crate::params::validate::accept;
use crate::tasks::task_named;

/// Names of the optimizer that is here too.
const ADAMW: [&str; 8] =
    ["adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_32bit", "adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit"];

/// Why a key with this value needs no counterpart: it is so here in any case.
fn as_here(key: &str, value: &Value) -> Option<&'static str> {
    match key {
        "lora_target_linear" if *value == true => Some("all linear layers of the blocks are adapted"),
        "mask_prompt" if *value == true => Some("training is on the answers"),
        "num_layers" if *value == -1 => Some("all layers are trained"),
        _ => None,
    }
}

/// What a configuration file says, in our words.
#[derive(Debug)]
pub(crate) struct Converted {
    pub tool: Tool,
    pub task: &'static Task,
    /// Parameters of the step, by our names.
    pub values: Map<String, Value>,
    /// What the file does not say, and their tool would do.
    pub defaults: Vec<String>,
    /// What is converted into something that is not quite the same.
    pub changed: Vec<String>,
    /// What is not converted, and why.
    pub warnings: Vec<String>,
    /// Keys that need no counterpart.
    pub not_needed: Vec<String>,
}

/// Converts a file.
///
/// # Errors
/// Kind `input`: it cannot be read, is no YAML, or is of no known tool. Kind `usage`: its method is not supported.
pub(crate) fn convert(path: &Path) -> Result<Converted> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|cause| {
        let fix = or_similar(path, &|path| path.is_file(), "check the path");
        error::input(format!("{shown} cannot be read: {cause}; {fix}"))
    })?;
    let parsed: Value = serde_saphyr::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|cause| error::input(format!("{shown} is not valid YAML: {cause}; correct it")))?;
    let Value::Object(keys) = parsed else {
        return Err(error::input(format!("{shown} is not a configuration: it must have keys and values")));
    };
    let Some(tool) = tool_of(&keys) else {
        let tools = Tool::ALL.map(Tool::name).join(", ");
        return Err(error::input(format!("{shown} is of no known tool ({tools}): it has no key such as model_name_or_path or base_model")));
    };
    Conversions::new(tool, flatten(keys, tool)).finish(path)
}

/// The tool whose configuration has such keys.
fn tool_of(keys: &Map<String, Value>) -> Option<Tool> {
    let any = |names: &[&str]| names.iter().any(|name| keys.contains_key(*name));
    let section = |name: &str| keys.get(name).is_some_and(Value::is_object);
    match () {
        () if section("training") || section("lora") => Some(Tool::Unsloth),
        () if any(&["model_name_or_path", "finetuning_type", "cutoff_len"]) => Some(Tool::LlamaFactory),
        () if any(&["base_model", "datasets", "micro_batch_size"]) => Some(Tool::Axolotl),
        () if any(&["iters", "fine_tune_type", "lora_parameters", "num_layers"]) => Some(Tool::MlxLm),
        () => None,
    }
}

/// All keys with the sections above them. Keys without a value are left out: they are not set.
fn flatten(keys: Map<String, Value>, tool: Tool) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (key, value) in keys {
        match value {
            Value::Null => {}
            Value::Object(inner) if row(tool, &key).is_none() => {
                flat.extend(flatten(inner, tool).into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            value => flat.push((key, value)),
        }
    }
    flat
}

fn row(tool: Tool, key: &str) -> Option<&'static OtherName> {
    OTHER_NAMES.iter().find(|row| row.theirs == key && row.tools.contains(&tool))
}

/// The conversion of one file.
struct Conversions {
    keys: Vec<(String, Value)>,
    /// LLaMA-Factory's folder of data sets.
    dataset_dir: Option<String>,
    scale: Option<f64>,
    max_rows: Option<u64>,
    steps: Option<(String, f64)>,
    reports: BTreeSet<&'static str>,
    out: Converted,
}

impl Conversions {
    fn new(tool: Tool, keys: Vec<(String, Value)>) -> Conversions {
        let task = task_named("finetune_lora").expect("there is such a task");
        let out = Converted {
            tool,
            task,
            values: Map::new(),
            defaults: Vec::new(),
            changed: Vec::new(),
            warnings: Vec::new(),
            not_needed: Vec::new(),
        };
        let dataset_dir = keys.iter().find(|(key, _)| key == "dataset_dir").and_then(|(_, value)| value.as_str()).map(ToString::to_string);
        Conversions { keys, dataset_dir, scale: None, max_rows: None, steps: None, reports: BTreeSet::new(), out }
    }

    fn finish(mut self, path: &Path) -> Result<Converted> {
        self.method(path)?;
        self.defaults();
        for (key, value) in std::mem::take(&mut self.keys) {
            match row(self.out.tool, &key) {
                Some(row) => self.take(row, &key, &value, path),
                None => match NOT_NEEDED.iter().find(|(name, _)| *name == key) {
                    Some((_, reason)) => self.out.not_needed.push(format!("{key} ({reason})")),
                    None if let Some(reason) = as_here(&key, &value) => self.out.not_needed.push(format!("{key} ({reason})")),
                    None if key == "enable_thinking" && value.is_boolean() => {
                        self.put(&key, "template_kwargs", json!({"enable_thinking": value}));
                    }
                    // A feature that is not used.
                    None if value == Value::Bool(false) => self.out.not_needed.push(format!("{key} (off)")),
                    None => self.warn(format!("{key} = {}: there is no counterpart", short(&value))),
                },
            }
        }
        if let Some(scale) = self.scale {
            let rank = self.out.values.get("lora_rank").and_then(Value::as_f64).unwrap_or(f64::from(lora_defaults::RANK));
            let alpha = (scale * rank).round();
            if (alpha - scale * rank).abs() > 1e-6 {
                self.out.changed.push(format!("lora_parameters.scale = {scale}: lora_alpha is rounded to {alpha}"));
            }
            self.put("lora_parameters.scale", "lora_alpha", json!(alpha as i64));
        }
        if !self.reports.is_empty() {
            self.put("report_to", "report_to", json!(self.reports));
        }
        if let Some(rows) = self.max_rows {
            self.limit_rows(rows);
        }
        if let Some((key, steps)) = self.steps.take() {
            self.epochs(&key, steps);
        }
        Ok(self.out)
    }

    /// The task. A missing key is their default.
    fn method(&mut self, path: &Path) -> Result<()> {
        let supported = "supervised fine-tuning, full or with LoRA, is supported";
        let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
        for (key, value) in &self.keys {
            if (key == "stage" && text(value) != "sft") || (key == "training_mode" && text(value) != "normal") || key == "rl" {
                return Err(error::usage(format!("{}: {key} = {}: only {supported}", path.display(), short(value))));
            }
        }
        let found = self.keys.iter().find(|(key, _)| row(self.out.tool, key).is_some_and(|row| row.conversion == Conversion::Method));
        let default = if self.out.tool == Tool::Axolotl { "full" } else { "lora" };
        let method = found.map_or(default.to_string(), |(_, value)| text(value));
        self.out.task = task_named(match method.as_str() {
            "full" => "finetune_full",
            "lora" | "qlora" | "dora" => "finetune_lora",
            _ => return Err(error::usage(format!("{}: the method {method} is not supported; {supported}", path.display()))),
        })?;
        match method.as_str() {
            "qlora" => self.put("qlora", "load_in_4bit", json!(true)),
            "dora" => self.put("dora", "use_dora", json!(true)),
            _ => {}
        }
        Ok(())
    }

    /// Adds what their tool does where the file says nothing.
    fn defaults(&mut self) {
        let tool = self.out.tool;
        for default in OTHER_DEFAULTS.iter().filter(|default| default.tool == tool) {
            let ours = row(tool, default.key).map_or("", |row| row.ours);
            // A schedule without a name, warm-up in another unit, a length in steps.
            let is_given = |(key, _): &(String, Value)| key == default.key || row(tool, key).is_some_and(|row| row.ours == ours);
            let is_ours = default.key == "num_layers" || self.out.task.has(ours);
            if is_ours && !self.keys.iter().any(is_given) {
                let value = default.in_file(&self.keys, i64::from(lora_defaults::RANK));
                self.out.defaults.push(format!("{} = {}", default.key, short(&value)));
                self.keys.push((default.key.to_string(), value));
            }
        }
    }

    fn take(&mut self, row: &'static OtherName, key: &str, value: &Value, path: &Path) {
        let text = value.as_str().map(str::to_lowercase);
        let not = |why: &str| format!("{key} = {}: {why}", short(value));
        match row.conversion {
            Conversion::Method => {}
            Conversion::Same => self.put(key, row.ours, value.clone()),
            Conversion::Data | Conversion::EvalData => {
                let found = data_files(self.out.tool, key, value, self.dataset_dir.as_deref(), path);
                self.out.warnings.extend(found.warnings);
                if row.conversion == Conversion::EvalData {
                    found
                        .files
                        .iter()
                        .skip(1)
                        .for_each(|file| self.warn(format!("{key}: {file} is left out, because there is one file for evaluation")));
                    found.files.first().into_iter().for_each(|file| self.put(key, row.ours, json!(file)));
                } else if !found.files.is_empty() {
                    self.put(key, row.ours, json!(found.files));
                    found.evaluation.into_iter().for_each(|file| self.put(key, "eval_dataset_path", json!(file)));
                }
            }
            Conversion::Fraction => match value.as_f64() {
                Some(fraction) if fraction < 1.0 => self.put(key, row.ours, value.clone()),
                _ => self.warn(not("eval_split is a fraction of the data, not a number of samples")),
            },
            Conversion::MaxRows => match value.as_u64() {
                Some(rows) if rows > 0 => self.max_rows = Some(rows),
                _ => self.warn(not("it must be a number of samples")),
            },
            Conversion::OnOff => match value.as_bool() {
                Some(on) => self.put(key, row.ours, json!(if on { "on" } else { "off" })),
                None => self.warn(not("it must be true or false")),
            },
            Conversion::Optimizer => match text.as_deref() {
                Some(name) if ADAMW.contains(&name.trim_start_matches("paged_")) => {
                    let ours = if name.contains("8bit") { "adamw_8bit" } else { "adamw" };
                    if name.starts_with("paged_") {
                        self.out.changed.push(format!("{key} = {}: {ours}, whose state stays on the device", short(value)));
                    }
                    self.put(key, row.ours, json!(ours));
                }
                _ => self.warn(not("optimizer is adamw or adamw_8bit; adamw is used")),
            },
            Conversion::Scheduler => match text.as_deref().map(|name| name.trim_end_matches("_decay")) {
                Some("constant_with_warmup" | "constant") => self.put(key, row.ours, json!("constant")),
                Some(name @ ("cosine" | "linear")) => self.put(key, row.ours, json!(name)),
                _ => self.warn(not("scheduler is cosine, linear or constant; cosine is used")),
            },
            Conversion::Modules => match value {
                Value::String(all) if all == "all" || all == "all-linear" => {
                    self.out.not_needed.push(format!("{key} (all linear layers are the default)"));
                }
                Value::String(names) => self.put(key, row.ours, names.split(',').map(str::trim).collect()),
                Value::Array(names) => {
                    let last = |name: &Value| name.as_str().map_or(name.clone(), |name| json!(name.rsplit('.').next().unwrap_or(name)));
                    self.put(key, row.ours, names.iter().map(last).collect());
                }
                _ => self.warn(not("it must be names of layers")),
            },
            Conversion::FourBit => match value.as_f64() {
                Some(4.0) => self.put(key, row.ours, json!(true)),
                _ => self.warn(not("a model is loaded in 4-bit (load_in_4bit) or whole")),
            },
            Conversion::Checkpointing => {
                let off = value == &Value::Bool(false) || matches!(text.as_deref(), Some("none" | "false" | "no" | "off"));
                self.put(key, row.ours, json!(!off));
            }
            Conversion::Dtype(dtype) => match value.as_bool() {
                Some(true) => self.put(key, row.ours, json!(dtype)),
                Some(false) => self
                    .out
                    .not_needed
                    .push(format!("{key} (dtype is {})", self.out.values.get("dtype").and_then(Value::as_str).unwrap_or("auto"))),
                None => self.out.not_needed.push(format!("{key} (dtype is auto)")),
            },
            Conversion::Reports => {
                let names: Vec<Value> = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                for name in names {
                    match name.as_str() {
                        Some("none") => {}
                        Some("tensorboard") => drop(self.reports.insert("tensorboard")),
                        Some("wandb") => drop(self.reports.insert("wandb")),
                        Some("trackio") => drop(self.reports.insert("trackio")),
                        _ => self.warn(format!("{key} = {}: report_to is tensorboard, wandb or trackio", short(&name))),
                    }
                }
            }
            Conversion::ReportTo(name) => {
                if value == &Value::Bool(true) {
                    self.reports.insert(name);
                }
            }
            Conversion::Scale => self.scale = value.as_f64(),
            Conversion::Steps => match value.as_f64() {
                Some(steps) if steps > 0.0 => self.steps = Some((key.to_string(), steps)),
                _ => self.out.not_needed.push(format!("{key} (num_epochs counts)")),
            },
        }
    }

    /// A number of steps as epochs, if the data can be counted here.
    fn epochs(&mut self, key: &str, steps: f64) {
        let number = |name: &str, default: f64| self.out.values.get(name).and_then(Value::as_f64).unwrap_or(default);
        let batch = number("batch_size", 4.0) * number("gradient_accumulation_steps", 1.0);
        let rows = self.out.values.get("dataset_path").and_then(count_rows);
        // What is kept for evaluation is not trained on.
        match rows.map(|rows| (rows as f64 * (1.0 - number("eval_split", 0.0))).round() as u64).filter(|rows| *rows > 0) {
            Some(rows) => {
                let epochs = (steps * batch / rows as f64 * 1000.0).round() / 1000.0;
                self.out.values.shift_remove("num_epochs");
                self.out.changed.push(format!(
                    "{key} = {steps}: num_epochs = {epochs}, for {} and {batch} for each step",
                    counted(rows, "conversation")
                ));
                self.put(key, "num_epochs", json!(epochs));
            }
            None => self
                .warn(format!("{key} = {steps}: the length of training is num_epochs = {key} × {batch} / number of conversations; set it")),
        }
    }

    /// Reads at most `rows` of each data set.
    fn limit_rows(&mut self, rows: u64) {
        if self.out.values.get("dataset_path").is_none_or(|given| paths(given).is_empty()) {
            self.warn(format!("at most {rows} samples of each data set: write dataset_path as FILE::max_rows={rows}"));
        }
        for name in ["dataset_path", "eval_dataset_path"] {
            let Some(paths) = self.out.values.get(name).map(paths).filter(|paths| !paths.is_empty()) else { continue };
            let limited: Vec<String> = paths.iter().map(|path| Entry::with_option(path, &format!("max_rows={rows}"))).collect();
            let limited = if limited.len() == 1 { json!(limited[0]) } else { json!(limited) };
            self.out.values.insert(name.to_string(), limited);
        }
    }

    /// Sets a parameter, if the task has it and accepts the value.
    fn put(&mut self, key: &str, ours: &str, value: Value) {
        let Some(param) = self.out.task.all_params().find(|param| param.name == ours) else {
            return self.out.not_needed.push(format!("{key} ({} has no {ours})", self.out.task.name));
        };
        // A number in quotes: YAML 1.1 reads 1e-4 as a text.
        let number = value.as_str().and_then(|text| text.parse::<f64>().ok()).filter(|_| param.value_type.expected().contains("number"));
        let value = number.map_or(value, Value::from);
        match self.out.values.get(ours) {
            Some(earlier) if *earlier == value || value.as_f64() == Some(0.0) || value == Value::Bool(false) => return,
            Some(earlier) if earlier.as_f64() != Some(0.0) && *earlier != Value::Bool(false) => {
                let earlier = earlier.clone();
                return self.warn(format!("{key} = {}: {ours} is already {}", short(&value), short(&earlier)));
            }
            _ => {}
        }
        match accept(param, value.clone(), Interface::Toml) {
            Ok(accepted) => drop(self.out.values.insert(ours.to_string(), accepted)),
            Err(cause) => self.warn(format!("{key} = {}: {cause}", short(&value))),
        }
    }

    fn warn(&mut self, text: String) {
        self.out.warnings.push(text);
    }
}

/// A value for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 40 { format!("{}…", text.chars().take(40).collect::<String>()) } else { text }
}
