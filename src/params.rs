//! THE definition of every task's parameters: name, type, default, bounds, help.
//!
//! The flag, the key in pipeline.toml, the Python keyword, the Rust field, the page in the docs and the typed stub are all made
//! from the tables below; a script reads `params.<name>`. To add a parameter, add it here and use it in the script.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};

#[macro_use]
mod tables;
mod check;
mod kind;

pub use check::{Door, resolve};
pub use kind::{Kind, Message, Prompt};
use kind::{float, float_above, int};

/// Whether a parameter must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No default: leaving it out is an error.
    Required,
    /// Has a default.
    Default,
    /// May be left out, and then the script decides (null in the summary unless it says what it took). In Rust the field's
    /// value in `Default::default()` (0, `None`, an empty list or text) leaves it out.
    Unset,
}

/// One parameter of a task.
#[derive(Debug)]
pub struct Param {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub presence: Presence,
    /// The default as JSON (null for an unset or required one).
    pub default: fn() -> Value,
    /// The value of the Rust field that stands for "not given".
    absent: fn() -> Value,
}

/// Whether all numbers of a field are finite; `None` is.
pub trait Finite {
    fn finite(&self) -> bool;
}

impl Finite for f64 {
    fn finite(&self) -> bool {
        self.is_finite()
    }
}

impl Finite for Option<f64> {
    fn finite(&self) -> bool {
        self.is_none_or(f64::is_finite)
    }
}

macro_rules! whole {
    ($($ty:ty),*) => { $( impl Finite for $ty { fn finite(&self) -> bool { true } } )* };
}
whole!(bool, u32, Option<u32>, Option<bool>, String, PathBuf, Vec<String>, Vec<PathBuf>, Vec<u32>, Vec<Prompt>, Map<String, Value>);

/// A task's parameters as a Rust struct.
pub trait TaskParams: Serialize {
    /// The definition.
    fn params() -> &'static [Param];

    /// The first field whose number is none, or infinite: JSON would take it for a field that was left out.
    fn not_finite(&self) -> Option<&'static str>;

    /// What was given, by name; fields left at "unset" are absent.
    fn given(&self) -> Result<Map<String, Value>> {
        let Value::Object(mut map) = serde_json::to_value(self)? else { unreachable!("a struct is an object") };
        if let Some(name) = self.not_finite() {
            map.insert(name.into(), "not finite".into()); // and the check says what it must be
        }
        for param in Self::params().iter().filter(|param| param.presence != Presence::Default) {
            if map.get(param.name) == Some(&(param.absent)()) {
                map.shift_remove(param.name);
            }
        }
        Ok(map)
    }
}

const DTYPE: Kind = Kind::Choice(&["auto", "bf16", "fp16", "fp32"]);
const OUTTYPE: Kind = Kind::ChoiceList(&["f16", "bf16", "q8_0"]);

finetune_params! {
    [loop_params data_params step_params]
    /// Train every weight of the model.
    FinetuneFullParams {
        /// Peak learning rate.
        default learning_rate: f64 = 2e-5, float_above(0.0, 10.0);
    }
}

lora_params! {
    [finetune_params loop_params data_params step_params]
    /// Train a LoRA adapter beside the frozen model, go on with one, or stack a new one upon it.
    FinetuneLoraParams {
        /// Peak learning rate.
        default learning_rate: f64 = 2e-4, float_above(0.0, 10.0);
        /// Scale: the adapter's product counts lora_alpha / lora_rank times; unset, the continued one's, else 32.
        unset lora_alpha: u32 = 0, int(1, 1_000_000);
        /// Dropout on the adapter's input; unset, the continued one's, else 0.05.
        unset lora_dropout: Option<f64> = None, float(0.0, 0.99);
        /// Adapter to go on from: a folder or a session's step.
        unset checkpoint_lora: PathBuf = PathBuf::new(), Kind::Adapter;
        /// How to go on from checkpoint_lora: continue trains that adapter further; stack leaves it as it is, active and frozen, and trains a new one beside it.
        default checkpoint_mode: String = "continue".to_string(), Kind::Choice(&["continue", "stack"]);
        /// Scale by the root of the rank (rsLoRA); unset, the continued one's, else off.
        unset use_rslora: Option<bool> = None, Kind::Bool;
        /// Learn direction and length of each weight apart (DoRA, arXiv 2402.09353); unset, the continued one's, else off.
        unset use_dora: Option<bool> = None, Kind::Bool;
        /// Learning rate of the adapter's B matrices as a multiple of learning_rate (LoRA+, arXiv 2402.12354), 16 for instance; unset, the same for both.
        unset loraplus_ratio: Option<f64> = None, float(1.0, 10_000.0);
    }
}

step_params! {
    []
    /// Make a smaller copy of the model: 4 bit (nf4), 8 bit or 16 bit.
    QuantizeModelParams {
        /// Bits per weight: 4 (bitsandbytes nf4), 8 (bitsandbytes int8) or 16 (a cast to bf16).
        default bits: u32 = 4, Kind::IntChoice(&[4, 8, 16]);
    }
}

step_params! {
    []
    /// Write the model as GGUF files, for llama.cpp and Ollama.
    ConvertModelToGgufParams {
        /// Types of the matrices, a file for each.
        default outtype: Vec<String> = vec!["f16".to_string()], OUTTYPE;
    }
}

step_params! {
    []
    /// Write a LoRA adapter as GGUF files, to be loaded beside its base model.
    ConvertLoraToGgufParams {
        /// Types of the matrices, a file for each.
        default outtype: Vec<String> = vec!["f16".to_string()], OUTTYPE;
    }
}

step_params! {
    []
    /// Let the model answer.
    InferenceParams {
        /// What to ask: a text, or (in Python, Rust and pipeline.toml) a whole conversation; may repeat.
        unset prompt: Vec<Prompt> = Vec::new(), Kind::Prompts;
        /// File of prompts: JSON list or JSON lines of texts or conversations, or a .txt with one prompt per line.
        unset prompts_file: PathBuf = PathBuf::new(), Kind::Path;
        /// Longest answer, in tokens.
        default max_new_tokens: u32 = 256, int(1, 1_048_576);
        /// Sampling temperature, 0 always takes the likeliest token; unset, the model's generation config decides.
        unset temperature: Option<f64> = None, float(0.0, 100.0);
        /// Sample among the likeliest tokens that together have this probability; unset, the model's.
        unset top_p: Option<f64> = None, float_above(0.0, 1.0);
        /// Sample among this many likeliest tokens; unset, the model's.
        unset top_k: Option<u32> = None, int(1, 1_000_000);
        /// Seed of the sampling.
        default seed: u32 = 42, int(0, u32::MAX as i64);
        /// Number format: auto is bf16, else fp16, on CUDA, and fp32 on a CPU.
        default dtype: String = "auto".to_string(), DTYPE;
    }
}

step_params! {
    []
    /// Join stacked adapters into one adapter that computes the same.
    FlattenParams {}
}

step_params! {
    []
    /// Join an adapter and its base into a plain model.
    MergeParams {
        /// Number format of the merged model: auto is the base model's own.
        default dtype: String = "auto".to_string(), DTYPE;
    }
}

step_params! {
    []
    /// Run a script of your own: a file with `run(params, session) -> dict`.
    ScriptParams {
        /// The script's own parameters, checked against its PARAMS.
        unset params: Map<String, Value> = Map::new(), Kind::Object;
    }
}

data_params! {
    [query_params]
    /// Prepare a data set: rows of token ids and labels, kept in the cache.
    PrepareParams {
    }
}

lora_params! {
    [loop_params data_params device_params query_params]
    /// Check a data set before any weight is loaded: its faults, figures, samples, and what training will take.
    CheckParams {
        /// The way of fine-tuning whose memory, disk and time are estimated.
        default task: String = "finetune_lora".to_string(), Kind::Choice(&["finetune_full", "finetune_lora"]);
        /// Conversations to show with what is trained on: the first so many.
        default show: u32 = 1, int(0, 1000);
        /// Conversations to show instead, by their index, from 0.
        unset show_index: Vec<u32> = Vec::new(), Kind::IntList;
        /// Also time two layers of the model's shape, which starts Python, and estimate how long training takes.
        default probe: bool = false, Kind::Bool;
    }
}

impl CheckParams {
    /// Defaults, and the data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

impl PrepareParams {
    /// Defaults, and the data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

impl FinetuneFullParams {
    /// Defaults, and the data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

impl FinetuneLoraParams {
    /// Defaults, and the data set.
    pub fn new(dataset_path: impl Into<PathBuf>) -> Self {
        Self { dataset_path: vec![dataset_path.into()], ..Self::default() }
    }
}

impl InferenceParams {
    /// Defaults, and one prompt.
    pub fn new(prompt: impl Into<Prompt>) -> Self {
        Self { prompt: vec![prompt.into()], ..Self::default() }
    }
}

const fn subject(name: &'static str, kind: Kind, help: &'static str) -> Param {
    Param { name, help, kind, presence: Presence::Required, default: || Value::Null, absent: || Value::Null }
}

/// What most tasks work on.
pub static MODEL: Param = subject(
    "model",
    Kind::Model,
    "The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub.",
);
/// What `convert_lora_to_gguf` works on.
pub static ADAPTER: Param = subject("adapter", Kind::Adapter, "The LoRA adapter: a folder or a session's step.");
/// What `script` works on.
pub static SCRIPT: Param = subject("script", Kind::Path, "The script: a .py file.");

/// Parameters that the command line takes before or after any command's name.
pub const GLOBAL: [&str; 2] = ["runs_dir", "offline"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_fields_are_not_given_and_set_ones_are() {
        let given = FinetuneLoraParams { lora_rank: 8, ..FinetuneLoraParams::new("data.json") }.given().unwrap();
        assert_eq!(given["lora_rank"], 8);
        assert_eq!(given["dataset_path"], json!(["data.json"]));
        for name in ["lora_alpha", "lora_dropout", "checkpoint_lora", "target_modules", "step", "runs_dir"] {
            assert!(!given.contains_key(name), "{name} was never set");
        }
    }

    #[test]
    fn defaults_lie_within_their_own_bounds() {
        let required = Map::from_iter([("dataset_path".to_string(), json!("data.json"))]);
        for params in [FinetuneFullParams::params(), FinetuneLoraParams::params()] {
            resolve("task", params, required.clone(), Door::Rust).unwrap();
        }
        for params in [
            QuantizeModelParams::params(),
            ConvertModelToGgufParams::params(),
            InferenceParams::params(),
            FlattenParams::params(),
            MergeParams::params(),
        ] {
            resolve("task", params, Map::new(), Door::Rust).unwrap();
        }
    }

    #[test]
    fn a_struct_built_in_rust_meets_the_same_bounds() {
        let new = || FinetuneLoraParams::new("data.json");
        for (params, named) in [
            (FinetuneLoraParams { num_epochs: -1.0, ..new() }, "num_epochs"),
            (FinetuneLoraParams { learning_rate: f64::NAN, ..new() }, "learning_rate"),
            (FinetuneLoraParams { lora_dropout: Some(f64::INFINITY), ..new() }, "lora_dropout"),
        ] {
            let error = resolve("finetune_lora", FinetuneLoraParams::params(), params.given().unwrap(), Door::Rust).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
