//! THE definition of every task's parameters: name, type, default, bounds, help.
//!
//! The flag, the key in pipeline.toml, the Python keyword, the Rust field, the page in the docs and the typed stub are all made
//! from the tables below; a script reads `params.<name>`. To add a parameter, add it here and use it in the script.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};

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

/// A task's parameters as a Rust struct.
pub trait TaskParams: Serialize {
    /// The definition.
    fn params() -> &'static [Param];

    /// What was given, by name; fields left at "unset" are absent.
    fn given(&self) -> Result<Map<String, Value>> {
        let Value::Object(mut map) = serde_json::to_value(self)? else { unreachable!("a struct is an object") };
        for param in Self::params().iter().filter(|param| param.presence != Presence::Default) {
            if map.get(param.name) == Some(&(param.absent)()) {
                map.shift_remove(param.name);
            }
        }
        Ok(map)
    }
}

macro_rules! presence {
    (required, $value:expr) => {
        (Presence::Required, || Value::Null)
    };
    (unset, $value:expr) => {
        (Presence::Unset, || Value::Null)
    };
    (default, $value:expr) => {
        (Presence::Default, || json!($value))
    };
}

macro_rules! params {
    ([] $(#[doc = $about:literal])+ $name:ident { $( $(#[doc = $help:literal])+ $presence:ident $field:ident: $ty:ty = $value:expr, $kind:expr; )* }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct $name { $( $(#[doc = $help])+ pub $field: $ty, )* }

        impl Default for $name {
            fn default() -> Self { $name { $( $field: $value, )* } }
        }

        impl TaskParams for $name {
            fn params() -> &'static [Param] {
                static PARAMS: &[Param] = &[ $( {
                    const PRESENCE: (Presence, fn() -> Value) = presence!($presence, $value);
                    Param { name: stringify!($field), help: concat!($($help),+), kind: $kind, presence: PRESENCE.0, default: PRESENCE.1, absent: || json!($value as $ty) }
                } ),* ];
                PARAMS
            }
        }
    };
}

/// Adds what every question about a data set has.
macro_rules! query_params {
    ([] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        params! { [] $(#[doc = $about])+ $name { $($fields)*
            /// Open no socket: the model must be a folder, builtin:tiny or downloaded before.
            default offline: bool = false, Kind::Bool;
        } }
    };
}

/// Adds where to compute.
macro_rules! device_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name { $($fields)*
            /// Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N.
            default device: String = "auto".to_string(), Kind::Device;
        } }
    };
}

/// Adds what every step has.
macro_rules! step_params {
    ([] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        device_params! { [params] $(#[doc = $about])+ $name { $($fields)*
            /// The step's folder in the session; unset, the task's name.
            unset step: String = String::new(), Kind::Text;
            /// Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded.
            default overwrite: bool = false, Kind::Bool;
            /// Show the resolved parameters and do nothing.
            default dry_run: bool = false, Kind::Bool;
            /// Open no socket: models must be folders, builtin:tiny or downloaded before.
            default offline: bool = false, Kind::Bool;
            /// Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory.
            unset runs_dir: PathBuf = PathBuf::new(), Kind::Path;
        } }
    };
}

/// Adds what decides the rows that a data set becomes, and goes on with the next macro of the list.
macro_rules! data_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// The conversations: files or patterns such as data/*.jsonl, each a JSON list or JSON lines (also .gz and .zst) of {"messages": [{"role": …, "content": …}, …]}; or Parquet, Arrow, a folder of the datasets library.
            required dataset_path: Vec<PathBuf> = Vec::new(), Kind::Paths;
            /// Longest sample, in tokens.
            default max_length: u32 = 2048, int(8, 1_048_576);
            /// What happens to a sample that is longer: error lists them, drop leaves them out, truncate_left and truncate_right cut them.
            default overlong: String = "error".to_string(), Kind::Choice(&["error", "drop", "truncate_left", "truncate_right"]);
            /// The assistant's thoughts (<think>…</think>, reasoning_content): keep learns them where the template shows them, drop takes them out, mask shows them and does not learn them.
            default thinking: String = "keep".to_string(), Kind::Choice(&["keep", "drop", "mask"]);
            /// Leave out conversations that are equal to an earlier one.
            default drop_duplicates: bool = false, Kind::Bool;
            /// Share of the conversations, drawn by the seed, that is held out for evaluation.
            default eval_split: f64 = 0.0, float(0.0, 0.9);
            /// Seed of everything random: order, dropout, new weights, the evaluation split.
            default seed: u32 = 42, int(0, u32::MAX as i64);
            $($fields)*
        } }
    };
}

/// Adds what decides how often and in which portions the rows are seen.
macro_rules! loop_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Passes over the data set.
            default num_epochs: f64 = 3.0, float_above(0.0, 100_000.0);
            /// Conversations per forward and backward pass.
            default batch_size: u32 = 4, int(1, 65_536);
            /// Passes whose gradients are summed before the weights move: a training step is batch_size times this many conversations.
            default gradient_accumulation_steps: u32 = 1, int(1, 65_536);
            /// Most tokens that go through the model at once; a step is cut accordingly, which changes nothing but memory and speed. Unset: 768 on a CPU; 16384 on CUDA, and less once memory has run out.
            unset max_tokens_per_batch: Option<u32> = None, int(1, 16_777_216);
            /// Lay samples one behind the other, none seeing another, instead of side by side: auto does so where the model's layers allow it.
            default packing: String = "auto".to_string(), Kind::Choice(&["auto", "on", "off"]);
            /// Number format: auto is bf16, else fp16, on CUDA, and fp32 on a CPU.
            default dtype: String = "auto".to_string(), DTYPE;
            /// Steps between two checkpoints; 0 writes none.
            default save_steps: u32 = 0, int(0, 1_000_000_000);
            $($fields)*
        } }
    };
}

/// Adds what decides the size of an adapter and of the model beside it.
macro_rules! lora_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Rank of the adapter's matrices; unset, the continued one's, else 8.
            unset lora_rank: u32 = 0, int(1, 65_536);
            /// Layers that get an adapter; unset, the continued one's, else q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, or every linear layer of the blocks where they have other names.
            unset target_modules: Vec<String> = Vec::new(), Kind::TextList;
            /// Hold the frozen model in 4 bit, nf4 (QLoRA).
            default load_in_4bit: bool = false, Kind::Bool;
            $($fields)*
        } }
    };
}

/// Adds what both ways of fine-tuning have besides.
macro_rules! finetune_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Steps over which the learning rate rises from 0: a number of steps, or below 1 a share of all steps.
            default warmup: f64 = 0.0, float(0.0, 10_000_000.0);
            /// How the learning rate goes on after the warm-up.
            default scheduler: String = "cosine".to_string(), Kind::Choice(&["cosine", "linear", "constant"]);
            /// AdamW's decoupled weight decay.
            default weight_decay: f64 = 0.0, float(0.0, 10.0);
            /// The optimizer: AdamW, or with its moments in 8 bit (bitsandbytes; arXiv 2110.02861), for less memory.
            default optimizer: String = "adamw".to_string(), Kind::Choice(&["adamw", "adamw_8bit"]);
            /// Strength of NEFTune's noise on the embeddings (arXiv 2310.05914), 5 for instance; unset, none.
            unset neftune_alpha: Option<f64> = None, float_above(0.0, 1000.0);
            /// Compute activations again in the backward pass instead of keeping them: less memory, more time.
            default gradient_checkpointing: bool = false, Kind::Bool;
            /// Run the model's layers through torch.compile: faster where a long training outweighs the first minute; needs a C++ compiler.
            default compile: bool = false, Kind::Bool;
            /// Gradients are scaled down to this norm; 0 leaves them.
            default max_grad_norm: f64 = 1.0, float(0.0, 1_000_000.0);
            /// Steps between two lines of metrics.jsonl.
            default logging_steps: u32 = 10, int(1, 1_000_000);
            /// How many checkpoints are kept, the newest and the best among them in any case; 0 keeps all.
            default save_total_limit: u32 = 0, int(0, 1_000_000);
            /// Conversations to evaluate on, in the form of dataset_path.
            unset eval_dataset_path: PathBuf = PathBuf::new(), Kind::Path;
            /// Steps between two evaluations; 0 evaluates after each epoch.
            default eval_steps: u32 = 0, int(0, 1_000_000_000);
            /// End after so many evaluations in a row without a lower loss; 0 never does.
            default early_stopping_patience: u32 = 0, int(0, 1_000_000);
            /// Save the weights of the evaluation with the lowest loss instead of the last ones.
            default load_best_model_at_end: bool = false, Kind::Bool;
            /// Where metrics go besides metrics.jsonl: tensorboard (the step's folder `tensorboard`), wandb; unset, nowhere.
            unset report_to: Vec<String> = Vec::new(), Kind::ChoiceList(&["tensorboard", "wandb"]);
            $($fields)*
        } }
    };
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
        let params = FinetuneLoraParams { num_epochs: -1.0, ..FinetuneLoraParams::new("data.json") };
        let error = resolve("finetune_lora", FinetuneLoraParams::params(), params.given().unwrap(), Door::Rust).unwrap_err();
        assert!(error.to_string().contains("num_epochs"), "{error}");
    }
}
