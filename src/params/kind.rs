//! The types a parameter can have: how a value is checked, read from text, and named for people and in Python.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The number type that a model computes in.
pub(crate) const DTYPE: Kind = Kind::Choice(&["auto", "bf16", "fp16", "fp32"]);

/// A parameter's type and bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A file or folder.
    Path,
    /// A model: a folder, a session's step, builtin:tiny or a hub name.
    Model,
    /// An adapter: a folder or a session's step.
    Adapter,
    Text,
    Bool,
    /// auto, cpu, cuda or cuda:N.
    Device,
    Int {
        min: i64,
        max: i64,
    },
    Float {
        min: f64,
        max: f64,
        above: bool,
    },
    Choice(&'static [&'static str]),
    IntChoice(&'static [i64]),
    TextList,
    /// Whole numbers from 0.
    IntList,
    /// One path, or several.
    Paths,
    ChoiceList(&'static [&'static str]),
    /// Texts or conversations.
    Prompts,
    /// Names and values.
    Object,
}

pub(crate) const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max }
}

pub(crate) const fn float(min: f64, max: f64) -> Kind {
    Kind::Float { min, max, above: false }
}

/// As `float`, `min` itself left out.
pub(crate) const fn float_above(min: f64, max: f64) -> Kind {
    Kind::Float { min, max, above: true }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// What a model is asked: one user's text, or a conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    Text(String),
    Conversation(Vec<Message>),
}

impl<T: Into<String>> From<T> for Prompt {
    fn from(text: T) -> Prompt {
        Prompt::Text(text.into())
    }
}

impl Kind {
    /// What a value must be, as words that follow "must be".
    pub fn wanted(self) -> String {
        match self {
            Kind::Path => "a path".into(),
            Kind::Paths => "a path or a list of paths".into(),
            Kind::Model => "a path or a name".into(),
            Kind::Adapter => "a folder or a session's step".into(),
            Kind::Text => "a text".into(),
            Kind::Bool => "true or false".into(),
            Kind::Device => "auto, cpu, cuda or cuda:N".into(),
            Kind::Int { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Float { min, max, above: false } => format!("a number from {min} to {max}"),
            Kind::Float { min, max, above: true } => format!("a number above {min}, up to {max}"),
            Kind::Choice(names) => format!("one of {}", names.join(", ")),
            Kind::IntChoice(numbers) => {
                format!("one of {}", numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            Kind::TextList => "a list of texts, none of them empty".into(),
            Kind::IntList => "a list of whole numbers, none below 0".into(),
            Kind::ChoiceList(names) => format!("a list, not empty, of {}", names.join(", ")),
            Kind::Prompts => {
                "a text that is not empty, or a list of such texts and of conversations ([{\"role\": …, \"content\": …}, …])".into()
            }
            Kind::Object => "names and values (NAME=VALUE)".into(),
        }
    }

    /// The value in its normal form, or nothing where it does not fit.
    pub fn accept(self, value: Value) -> Option<Value> {
        match (self, value) {
            (Kind::Path | Kind::Model | Kind::Adapter | Kind::Text, Value::String(text)) if !text.is_empty() && !text.contains('\0') => {
                Some(Value::String(text))
            }
            (Kind::Bool, Value::Bool(flag)) => Some(Value::Bool(flag)),
            (Kind::Object, Value::Object(map)) => Some(Value::Object(map)),
            (Kind::Device, Value::String(text)) => is_device(&text).then_some(Value::String(text)),
            (Kind::Int { min, max }, Value::Number(number)) => {
                number.as_i64().filter(|number| (min..=max).contains(number)).map(Value::from)
            }
            (Kind::Float { min, max, above }, Value::Number(number)) => {
                number.as_f64().filter(|x| x.is_finite() && *x <= max && if above { *x > min } else { *x >= min }).map(Value::from)
            }
            (Kind::Choice(names), Value::String(text)) => names.contains(&text.as_str()).then_some(Value::String(text)),
            (Kind::IntChoice(numbers), Value::Number(number)) => number.as_i64().filter(|number| numbers.contains(number)).map(Value::from),
            (Kind::TextList, Value::Array(items)) => (!items.is_empty()
                && items.iter().all(|item| item.as_str().is_some_and(|text| !text.is_empty())))
            .then_some(Value::Array(items)),
            (Kind::IntList, Value::Array(items)) => (!items.is_empty() && items.iter().all(Value::is_u64)).then_some(Value::Array(items)),
            // A single path is a text at every interface.
            (Kind::Paths, Value::Array(mut items)) if items.len() == 1 => Kind::Path.accept(items.remove(0)),
            (Kind::Paths, Value::Array(items)) => {
                (!items.is_empty() && items.iter().all(|item| Kind::Path.accept(item.clone()).is_some())).then_some(Value::Array(items))
            }
            (Kind::Paths, value) => Kind::Path.accept(value),
            (Kind::ChoiceList(names), Value::String(text)) => names.contains(&text.as_str()).then(|| json!([text])),
            (Kind::ChoiceList(names), Value::Array(items)) => {
                (!items.is_empty() && items.iter().all(|item| item.as_str().is_some_and(|text| names.contains(&text)))).then(|| {
                    let mut once: Vec<Value> = Vec::new();
                    for item in items {
                        if !once.contains(&item) {
                            once.push(item);
                        }
                    }
                    Value::Array(once)
                })
            }
            (Kind::Prompts, Value::String(text)) => (!text.is_empty()).then(|| json!([text])),
            (Kind::Prompts, Value::Array(items)) if is_conversation(&items) => Some(json!([items])),
            (Kind::Prompts, Value::Array(items)) => (!items.is_empty() && items.iter().all(is_prompt)).then_some(Value::Array(items)),
            _ => None,
        }
    }

    /// Reads what stood on the command line or in an environment variable.
    pub fn read_text(self, texts: &[String]) -> Value {
        let text = texts.first().map_or("", String::as_str);
        let raw = || Value::String(text.to_string());
        match self {
            Kind::Int { .. } | Kind::IntChoice(_) => text.parse::<i64>().map_or_else(|_| raw(), Value::from),
            Kind::Float { .. } => text.parse::<f64>().ok().filter(|x| x.is_finite()).map_or_else(raw, Value::from),
            Kind::Bool => text.parse::<bool>().map_or_else(|_| raw(), Value::from),
            Kind::TextList | Kind::ChoiceList(_) => {
                texts.iter().flat_map(|text| text.split(',')).map(|item| Value::from(item.trim())).collect()
            }
            Kind::IntList => {
                let numbers = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
                numbers.map(|text| text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)).collect()
            }
            Kind::Prompts | Kind::Paths => texts.iter().cloned().map(Value::from).collect(),
            // Values stay texts: the script's PARAMS say what they are to be read as.
            Kind::Object => {
                let pairs = texts.iter().map(|text| text.split_once('=').map(|(k, v)| (k.to_string(), Value::from(v))));
                pairs.collect::<Option<Map<_, _>>>().map_or_else(raw, Value::Object)
            }
            _ => raw(),
        }
    }

    /// Whether a flag of that type may be given several times.
    pub fn repeats(self) -> bool {
        matches!(self, Kind::Paths | Kind::TextList | Kind::IntList | Kind::ChoiceList(_) | Kind::Prompts | Kind::Object)
    }
}

fn is_device(text: &str) -> bool {
    matches!(text, "auto" | "cpu" | "cuda")
        || text.strip_prefix("cuda:").is_some_and(|n| !n.is_empty() && n.len() < 4 && n.bytes().all(|b| b.is_ascii_digit()))
}

fn is_conversation(items: &[Value]) -> bool {
    !items.is_empty()
        && items.iter().all(|item| item.get("role").is_some_and(Value::is_string) && item.get("content").is_some_and(Value::is_string))
}

fn is_prompt(item: &Value) -> bool {
    match item {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => is_conversation(items),
        _ => false,
    }
}
