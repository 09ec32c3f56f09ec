//! `init`: writes a commented pipeline.toml for a model and a data set, or from another tool's configuration.

mod convert;
mod other_data;
mod template;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::base::{assets, error, files};
use crate::cli::commands::run::write_sample;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::results::quoted;
use crate::dataset::check_paths;
use crate::params::interface::Interface;
use crate::params::validate::accept;
use crate::pipeline::FILE;
use crate::pipeline::pipeline_file::Pipeline;
use crate::reference::{SCHEMA_FILE, pipeline_schema};
use crate::session::artifact::{ArtifactKind, TINY, resolve_artifact};
use crate::session::runs_dir;
use crate::step::family::other_family;
use crate::tasks::task_named;
use convert::convert;
use template::NewPipeline;

/// Write a commented pipeline.toml for a model and a data set, or from the configuration of another tool
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Training conversations. Without data, model and --from: the sample with its own data
    #[arg(value_name = "DATA")]
    data: Vec<String>,
    /// Model: a folder, a session's step, builtin:tiny or a Hugging Face hub name
    #[arg(short, long, value_name = "MODEL", help_heading = "Pipeline")]
    model: Option<String>,
    /// Instead of DATA
    #[arg(short, long, value_name = "PATH", num_args = 1.., conflicts_with = "data", help_heading = "Pipeline")]
    dataset_path: Vec<String>,
    /// Task that trains [default: that of --from, otherwise finetune_lora; of builtin:tiny finetune_full]
    #[arg(long, value_name = "NAME", value_parser = ["finetune_lora", "finetune_full"], help_heading = "Pipeline")]
    task: Option<String>,
    /// Configuration to convert: YAML of LLaMA-Factory, Axolotl, Unsloth or mlx-lm
    #[arg(long, value_name = "FILE", help_heading = "Pipeline")]
    from: Option<PathBuf>,
    /// File to write. pipeline.schema.json, for editors, is written beside it
    #[arg(short, long, value_name = "FILE", default_value = FILE, help_heading = "Output")]
    output: PathBuf,
    /// Replace existing files
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
}

impl InitArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let data: Vec<String> = self.data.iter().chain(&self.dataset_path).cloned().collect();
        if self.from.is_none() && self.model.is_none() && data.is_empty() && self.output == Path::new(FILE) {
            return write_sample(self.overwrite);
        }
        let (pipeline, changed, warnings) = self.pipeline(&data)?;
        let text = pipeline.text();
        let complete = ["model", "dataset_path"].into_iter().all(|name| pipeline.values.contains_key(name));
        if complete {
            Pipeline::parse(&text, &self.output.to_string_lossy())?.with(Map::new(), None, Interface::Cli)?;
        }
        let schema = self.output.parent().unwrap_or(Path::new("")).join(SCHEMA_FILE);
        let written = [(&self.output, text), (&schema, pipeline_schema())];
        if let Some((path, _)) = written.iter().find(|(path, text)| !self.overwrite && is_other(path, text)) {
            return Err(error::usage(format!("{} already exists; give another file with --output, or --overwrite", path.display())));
        }
        for (path, text) in &written {
            files::write_whole(path, text.as_bytes())?;
        }
        for warning in &warnings {
            warning!("{warning}");
        }
        if global.json {
            output::json(&json!({"pipeline": self.output, "schema": schema, "changed": changed, "warnings": warnings}));
        } else {
            let file = if self.output == Path::new(FILE) { String::new() } else { format!(" {}", quoted(&self.output.to_string_lossy())) };
            for change in &changed {
                output::line(&format!("converted {change}"));
            }
            let then = if complete { "" } else { "; complete it, then check and run it" };
            output::line(&format!("wrote {} and {}{then}", self.output.display(), schema.display()));
            output::command("check: ", &format!("pyrust-nn run{file} --dry-run"));
            output::command("run:   ", &format!("pyrust-nn run{file}"));
        }
        Ok(0)
    }

    /// The pipeline, what of another tool's is not quite the same in it, and what to warn of.
    fn pipeline(&self, data: &[String]) -> Result<(NewPipeline, Vec<String>, Vec<String>)> {
        let (mut changed, mut warnings) = (Vec::new(), Vec::new());
        let mut pipeline = NewPipeline { task: task_named("finetune_lora")?, values: Map::new(), notes: Vec::new() };
        if let Some(from) = &self.from {
            let converted = convert(from)?;
            pipeline.task = converted.task;
            pipeline.values = converted.values;
            pipeline.notes.push(format!(
                "Converted from {} ({}). What neither that file nor its tool sets has the defaults below.",
                from.display(),
                converted.tool.name()
            ));
            let defaults = converted.defaults.join(", ");
            pipeline.notes.extend((!defaults.is_empty()).then(|| format!("Defaults of {}: {defaults}", converted.tool.name())));
            pipeline.notes.extend(converted.changed.iter().map(|change| format!("Converted: {change}")));
            pipeline.notes.extend(converted.warnings.iter().map(|warning| format!("Not converted: {warning}")));
            pipeline
                .notes
                .extend((!converted.not_needed.is_empty()).then(|| format!("Not needed here: {}", converted.not_needed.join(", "))));
            changed = converted.changed;
            warnings.extend(converted.warnings.into_iter().map(|warning| format!("{}: {warning}", from.display())));
        }
        if let Some(task) = &self.task {
            pipeline.task = task_named(task)?;
            let has = pipeline.task;
            pipeline.values.retain(|name, _| {
                if !has.has(name) {
                    warnings.push(format!("{name} is left out, because {task} has no such parameter"));
                }
                has.has(name)
            });
        }
        let given = [("model", self.model.clone().map(Value::from)), ("dataset_path", (!data.is_empty()).then(|| json!(data)))];
        for (name, value) in given {
            let param = pipeline.task.all_params().find(|param| param.name == name);
            if let (Some(param), Some(value)) = (param, value) {
                pipeline.values.insert(name.to_string(), accept(param, value, Interface::Cli)?);
            }
            if !pipeline.values.contains_key(name) {
                if self.from.is_none() {
                    let example = "pyrust-nn init data.jsonl -m Qwen/Qwen3-0.6B";
                    return Err(error::usage(format!("init needs {}, for example `{example}`", Interface::Cli.spell(name))));
                }
                warnings.push(format!("{name} is missing; set it in {}", self.output.display()));
            }
        }
        if self.from.is_none() && pipeline.values.get("model").is_some_and(|model| model == TINY) {
            match &self.task {
                None => pipeline.train_all_of_tiny()?,
                Some(task) if task == "finetune_lora" => warnings.push(format!("{TINY_IS_RANDOM}, and LoRA alone does not teach it much")),
                Some(_) => {}
            }
        }
        warnings.extend(missing(&pipeline.values));
        if let Some(warning) = pipeline.values.get("model").and_then(Value::as_str).and_then(|name| other_family(name, name)) {
            pipeline.notes.push(format!("Note: {warning}"));
            warnings.push(warning);
        }
        Ok((pipeline, changed, warnings))
    }
}

/// Why the defaults are not for the built-in model.
const TINY_IS_RANDOM: &str = "builtin:tiny has random weights";

impl NewPipeline {
    /// Trains all weights of the built-in model as the sample does.
    fn train_all_of_tiny(&mut self) -> Result<()> {
        let sample = Pipeline::parse(assets::text(FILE).unwrap_or_default(), FILE)?;
        self.task = task_named("finetune_full")?;
        self.values.extend(sample.of_model(TINY, self.task.name).cloned().unwrap_or_default());
        self.notes.push(format!("{TINY_IS_RANDOM}, so all of them are trained, and for long. A trained model needs neither."));
        Ok(())
    }
}

/// What the values name that does not exist. It may still be made, so it is no error.
fn missing(values: &Map<String, Value>) -> Vec<String> {
    let data = values.get("dataset_path").and_then(|given| check_paths(given, false).err());
    let model = values.get("model").and_then(Value::as_str).filter(|name| !name.starts_with('@'));
    let model = model.and_then(|name| resolve_artifact(name, &runs_dir(None), "", ArtifactKind::Model).err());
    data.into_iter().chain(model).map(|error| error.to_string()).collect()
}

/// Whether a file is there and has another content.
fn is_other(path: &Path, text: &str) -> bool {
    path.symlink_metadata().is_ok() && std::fs::read(path).ok().as_deref() != Some(text.as_bytes())
}
