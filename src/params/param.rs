//! The definition of a parameter, and how a struct of parameters tells which of them were given.
//!
//! An unset parameter is the empty value of its Rust field (`0`, `None`, `""`, `[]`), so that one writes `lora_rank: 8` without `Some`.
//! If 0 is a valid value (temperature, dropout), the field is an `Option`.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::params::group::Group;
use crate::params::interface::Interface;
use crate::params::param_type::ParamType;
use crate::params::process_count::ProcessCount;
use crate::params::prompt::Prompt;

/// Whether a parameter must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Must be given.
    Required,
    /// Has a default.
    Default,
    /// May be omitted. The step then decides, and its summary says what it used. In Rust, the field's value in `Default::default()` (0,
    /// `None`, an empty list or string) means omitted.
    Unset,
}

/// One parameter of a task.
#[derive(Debug)]
pub struct Param {
    pub name: &'static str,
    /// Help text, without the default.
    pub help: &'static str,
    pub value_type: ParamType,
    /// The group in which the command line's help shows it.
    pub group: Group,
    pub presence: Presence,
    /// The default as JSON (null for an unset or required one).
    pub default: fn() -> Value,
    /// For an unset parameter: what the step uses unless a continued adapter decides.
    pub fallback: Option<fn() -> Value>,
    /// The value of the Rust field that means "not given".
    pub(crate) absent: fn() -> Value,
}

impl Param {
    /// A required parameter: the input of a task.
    pub(crate) const fn input(name: &'static str, value_type: ParamType, help: &'static str) -> Param {
        Param {
            name,
            help,
            value_type,
            group: Group::Model,
            presence: Presence::Required,
            default: || Value::Null,
            fallback: None,
            absent: || Value::Null,
        }
    }

    /// The help text with the fallback of an unset parameter.
    pub fn full_help(&self) -> String {
        let help = self.help.trim();
        match self.fallback {
            Some(fallback) => format!("{help} If unset: the value of checkpoint_lora, otherwise {}.", display_value(&fallback())),
            None if self.on_by_default() => format!("{help} On the command line {} turns it off.", self.off_flag()),
            None => help.to_string(),
        }
    }

    /// Whether it is a switch that is on unless it is turned off.
    pub(crate) fn on_by_default(&self) -> bool {
        self.presence == Presence::Default && (self.default)() == Value::Bool(true)
    }

    /// The flag that turns off what is on by default: `--no-verify`.
    pub(crate) fn off_flag(&self) -> String {
        Interface::Cli.spell(self.name).replacen("--", "--no-", 1)
    }
}

/// A value in plain text: no quotes, no brackets.
pub(crate) fn display_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(display_value).collect::<Vec<_>>().join(" "),
        Value::Bool(false) => "off".into(),
        Value::Bool(true) => "on".into(),
        Value::Number(number) => match number.as_f64() {
            Some(x) if number.is_f64() && x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// The input of most tasks.
pub static MODEL: Param = Param::input(
    "model",
    ParamType::Model,
    "Model: a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml), builtin:tiny or a Hugging Face hub name.",
);
/// The input of `inference`.
pub static ANSWERING_MODEL: Param = Param::input(
    "model",
    ParamType::AnsweringModel,
    "Model: a GGUF file, a folder, a session's step (runs/s1/finetune_full, or @finetune_full in pipeline.toml; of a step with several GGUF files the first, or step:q8_0), builtin:tiny or a Hugging Face hub name.",
);
/// The input of `convert_lora_to_gguf`.
pub static ADAPTER: Param = Param::input("adapter", ParamType::Adapter, "LoRA adapter: a folder or a session's step.");
/// The input of `script`.
pub static SCRIPT: Param = Param::input("script", ParamType::Path, "Script: a .py file.");

/// Whether the number in a field is finite. `None` counts as finite.
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

impl Finite for Vec<f64> {
    fn finite(&self) -> bool {
        self.iter().all(|number| number.is_finite())
    }
}

macro_rules! always_finite {
    ($($ty:ty),*) => { $( impl Finite for $ty { fn finite(&self) -> bool { true } } )* };
}
always_finite!(bool, u32, Option<u32>, Option<bool>, String, PathBuf, Vec<String>, Vec<PathBuf>, Vec<u32>, Vec<Prompt>, Map<String, Value>, ProcessCount);

/// A task's parameters as a Rust struct.
pub trait TaskParams: Serialize {
    /// The definitions of the parameters.
    fn params() -> &'static [Param];

    /// The first field that is NaN or infinite. JSON would write it as null, which means an omitted field.
    fn non_finite_field(&self) -> Option<&'static str>;

    /// The given parameters by name. Unset ones are absent.
    fn given(&self) -> Result<Map<String, Value>> {
        let Value::Object(mut map) = serde_json::to_value(self)? else { unreachable!("a struct is an object") };
        if let Some(name) = self.non_finite_field() {
            map.insert(name.into(), "not finite".into()); // fails validation, which says what it must be
        }
        for param in Self::params().iter().filter(|param| param.presence != Presence::Default) {
            if map.get(param.name) == Some(&(param.absent)()) {
                map.shift_remove(param.name);
            }
        }
        Ok(map)
    }
}
