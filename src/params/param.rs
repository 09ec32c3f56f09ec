//! What a parameter is, and how a struct of parameters says which of them were given.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::params::kind::{Kind, Prompt};

/// Whether a parameter must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No default: leaving it out is an error.
    Required,
    /// Has a default.
    Default,
    /// May be left out. The step then decides, and its summary says what it took. In Rust the field's value in
    /// `Default::default()` (0, `None`, an empty list or string) leaves it out.
    Unset,
}

/// One parameter of a task.
#[derive(Debug)]
pub struct Param {
    pub name: &'static str,
    /// What it means, without its default.
    pub help: &'static str,
    pub kind: Kind,
    pub presence: Presence,
    /// The default as JSON (null for an unset or required one).
    pub default: fn() -> Value,
    /// For an unset one: what the step takes where no continued adapter decides.
    pub fallback: Option<fn() -> Value>,
    /// The value of the Rust field that stands for "not given".
    pub(crate) absent: fn() -> Value,
}

impl Param {
    /// A required parameter of every field's own kind: what a task works on.
    const fn subject(name: &'static str, kind: Kind, help: &'static str) -> Param {
        Param { name, help, kind, presence: Presence::Required, default: || Value::Null, fallback: None, absent: || Value::Null }
    }

    /// The help, and what an unset parameter becomes.
    pub fn full_help(&self) -> String {
        let help = self.help.trim();
        match self.fallback {
            Some(fallback) => format!("{help} Unset: that of checkpoint_lora, else {}.", plain(&fallback())),
            None => help.to_string(),
        }
    }
}

/// A value as people write it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Bool(false) => "off".into(),
        Value::Number(number) => match number.as_f64() {
            Some(x) if number.is_f64() && x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// What most tasks work on.
pub static MODEL: Param = Param::subject(
    "model",
    Kind::Model,
    "The model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny, or a name on the Hugging Face hub.",
);
/// What `convert_lora_to_gguf` works on.
pub static ADAPTER: Param = Param::subject("adapter", Kind::Adapter, "The LoRA adapter: a folder or a session's step.");
/// What `script` works on.
pub static SCRIPT: Param = Param::subject("script", Kind::Path, "The script: a .py file.");

/// Parameters that the command line takes before or after any command's name.
pub const GLOBAL: [&str; 2] = ["runs_dir", "offline"];

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

    /// The first field whose number is NaN or infinite: JSON would take it for a field that was left out.
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
