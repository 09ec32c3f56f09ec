//! The types of parameters: how a value is validated, parsed from text and described in messages.

use serde_json::{Map, Value, json};

/// The dtype of a computation.
pub(crate) const DTYPE: ParamType = ParamType::Choice(&["auto", "bf16", "fp16", "fp32"]);

/// The shape of a data set's conversations.
pub(crate) const SHAPE: ParamType =
    ParamType::Choice(&["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference"]);

/// What a column of a data set may hold.
pub(crate) const COLUMNS: ParamType = ParamType::Names(&[
    "messages",
    "system",
    "user",
    "input",
    "assistant",
    "text",
    "chosen",
    "rejected",
    "tools",
    "documents",
    "history",
    "train",
]);

/// A parameter's type and bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamType {
    /// A file or folder.
    Path,
    /// A model: a folder, a session's step, builtin:tiny or a hub name.
    Model,
    /// An adapter: a folder or a session's step.
    Adapter,
    /// What a step made of a model: a GGUF file, a model, an adapter, or a session's step.
    Candidate,
    /// An importance matrix: a file, the session's step that computed it, or a data set on which it is computed.
    Imatrix,
    /// A model in any form that answers: a GGUF file, a model, an adapter, or a session's step (`step:q8_0` is one of its GGUF files).
    AnsweringModel,
    /// One adapter in GGUF, or several: files, or sessions' steps.
    GgufAdapters,
    /// Files in GGUF or sessions' steps, each by a name of its own: `[name=]ARTIFACT`.
    NamedArtifacts,
    String,
    Bool,
    /// auto, cpu, cuda or cuda:N.
    Device,
    Int {
        min: i64,
        max: i64,
    },
    /// `auto`, or an integer from 1.
    Processes {
        max: i64,
    },
    Float {
        min: f64,
        max: f64,
        above: bool,
    },
    Choice(&'static [&'static str]),
    IntChoice(&'static [i64]),
    StringList,
    /// One string, or several. On the command line each flag gives one, with its spaces and commas.
    TextList,
    /// Integers from 0.
    IntList,
    FloatList {
        min: f64,
        max: f64,
    },
    /// One path, or several.
    Paths,
    ChoiceList(&'static [&'static str]),
    /// A name in either case. The value becomes lower case.
    Caseless(&'static [&'static str]),
    /// Names in either case, and other words for some of them. The values become the names in lower case.
    CaselessList {
        names: &'static [&'static str],
        aliases: &'static [(&'static str, &'static str)],
    },
    /// Strings or conversations.
    Prompts,
    /// Names and values.
    Object,
    /// Names and values of any type. On the command line a value is JSON, or else text.
    JsonObject,
    /// Names and strings; each name is one of these.
    Names(&'static [&'static str]),
}

pub(crate) const fn int(min: i64, max: i64) -> ParamType {
    ParamType::Int { min, max }
}

pub(crate) const fn float(min: f64, max: f64) -> ParamType {
    ParamType::Float { min, max, above: false }
}

/// Like `float`, but excludes `min`.
pub(crate) const fn float_above(min: f64, max: f64) -> ParamType {
    ParamType::Float { min, max, above: true }
}

impl ParamType {
    /// What a value must be, as words that follow "must be".
    pub fn expected(self) -> String {
        match self {
            ParamType::Path => "a path".into(),
            ParamType::Paths => "a path, a list of paths, or tables {path, weight, max_rows}".into(),
            ParamType::Model => "a path or a name".into(),
            ParamType::Adapter => "a folder or a session's step".into(),
            ParamType::Candidate => "a file, a folder or a session's step".into(),
            ParamType::Imatrix => "a file of llama-imatrix, a session's step or a data set".into(),
            ParamType::AnsweringModel => "a file, a folder, a session's step or a name".into(),
            ParamType::GgufAdapters => "a GGUF file or a session's step, or a list of them".into(),
            ParamType::NamedArtifacts => "a GGUF file or a session's step, or a list of them, each as NAME=… if it has a name".into(),
            ParamType::String => "a string".into(),
            ParamType::Bool => "true or false".into(),
            ParamType::Device => "auto, cpu, cuda or cuda:N".into(),
            ParamType::Int { min, max } => format!("an integer from {min} to {max}"),
            ParamType::Processes { max } => format!("auto or an integer from 1 to {max}"),
            ParamType::Float { min, max, above: false } => format!("a number from {min} to {max}"),
            ParamType::Float { min, max, above: true } => format!("a number above {min} and at most {max}"),
            ParamType::Choice(names) | ParamType::Caseless(names) => format!("one of {}", names.join(", ")),
            ParamType::IntChoice(numbers) => {
                format!("one of {}", numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            ParamType::StringList => "a non-empty list of non-empty strings".into(),
            ParamType::TextList => "a non-empty string, or a list of them".into(),
            ParamType::IntList => "a list of integers, each at least 0".into(),
            ParamType::FloatList { min, max } => format!("a number from {min} to {max}, or a list of them"),
            ParamType::ChoiceList(names) | ParamType::CaselessList { names, .. } => format!("a non-empty list of {}", names.join(", ")),
            ParamType::Prompts => {
                "a non-empty string, or a list of such strings and of conversations ([{\"role\": …, \"content\": …}, …])".into()
            }
            ParamType::Object | ParamType::JsonObject => "names and values (NAME=VALUE)".into(),
            ParamType::Names(names) => format!("names and strings (NAME=STRING), with NAME one of {}", names.join(", ")),
        }
    }

    /// The value in its normal form, or `None` if it is invalid.
    pub fn accept(self, value: Value) -> Option<Value> {
        match (self, value) {
            (
                ParamType::Path
                | ParamType::Model
                | ParamType::Adapter
                | ParamType::Candidate
                | ParamType::Imatrix
                | ParamType::AnsweringModel
                | ParamType::String,
                Value::String(text),
            ) if !text.is_empty() && !text.contains('\0') => Some(Value::String(text)),
            (ParamType::GgufAdapters | ParamType::NamedArtifacts, Value::Array(items)) if !items.is_empty() => {
                items.into_iter().map(|item| ParamType::Path.accept(item)).collect::<Option<_>>().map(Value::Array)
            }
            (ParamType::TextList, Value::String(text)) => (!text.is_empty()).then(|| json!([text])),
            (ParamType::TextList, list) => ParamType::StringList.accept(list),
            (ParamType::GgufAdapters | ParamType::NamedArtifacts, value) => Some(json!([ParamType::Path.accept(value)?])),
            (ParamType::FloatList { min, max }, Value::Array(items)) if !items.is_empty() => {
                items.into_iter().map(|item| float(min, max).accept(item)).collect::<Option<_>>().map(Value::Array)
            }
            (ParamType::FloatList { min, max }, value) => Some(json!([float(min, max).accept(value)?])),
            (ParamType::Bool, Value::Bool(flag)) => Some(Value::Bool(flag)),
            (ParamType::Object | ParamType::JsonObject, Value::Object(map)) => Some(Value::Object(map)),
            (ParamType::Names(names), Value::Object(map)) => map
                .iter()
                .all(|(name, value)| names.contains(&name.as_str()) && value.as_str().is_some_and(|text| !text.is_empty()))
                .then_some(Value::Object(map)),
            (ParamType::Device, Value::String(text)) => is_device(&text).then_some(Value::String(text)),
            (ParamType::Int { min, max }, Value::Number(number)) => {
                number.as_i64().filter(|number| (min..=max).contains(number)).map(Value::from)
            }
            (ParamType::Processes { .. }, Value::String(text)) => (text == "auto").then_some(Value::String(text)),
            (ParamType::Processes { max }, number) => int(1, max).accept(number),
            (ParamType::Float { min, max, above }, Value::Number(number)) => {
                number.as_f64().filter(|x| x.is_finite() && *x <= max && if above { *x > min } else { *x >= min }).map(Value::from)
            }
            (ParamType::Choice(names), Value::String(text)) => names.contains(&text.as_str()).then_some(Value::String(text)),
            (ParamType::IntChoice(numbers), Value::Number(number)) => {
                number.as_i64().filter(|number| numbers.contains(number)).map(Value::from)
            }
            (ParamType::StringList, Value::Array(items)) => (!items.is_empty()
                && items.iter().all(|item| item.as_str().is_some_and(|text| !text.is_empty())))
            .then_some(Value::Array(items)),
            (ParamType::IntList, Value::Array(items)) => {
                (!items.is_empty() && items.iter().all(Value::is_u64)).then_some(Value::Array(items))
            }
            // A list of one path becomes that path, so that every interface resolves to the same value.
            (ParamType::Paths, Value::Array(mut items)) if items.len() == 1 => ParamType::Path.accept(items.remove(0)),
            (ParamType::Paths, Value::Array(items)) if !items.is_empty() => {
                let one = |item: Value| if item.is_array() { None } else { ParamType::Paths.accept(item) };
                items.into_iter().map(one).collect::<Option<_>>().map(Value::Array)
            }
            (ParamType::Paths, Value::Object(table)) => table_as_text(&table),
            (ParamType::Paths, value) => ParamType::Path.accept(value),
            (ParamType::ChoiceList(names), Value::String(text)) => names.contains(&text.as_str()).then(|| json!([text])),
            (ParamType::ChoiceList(names), Value::Array(items)) => {
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
            (ParamType::Caseless(names), Value::String(text)) => {
                let text = text.to_lowercase();
                names.contains(&text.as_str()).then_some(Value::String(text))
            }
            (ParamType::CaselessList { names, aliases }, value) => {
                let named = |text: &str| {
                    let text = text.to_lowercase();
                    let name = aliases.iter().find(|(alias, _)| *alias == text).map_or(text.as_str(), |(_, name)| name);
                    Value::from(name)
                };
                let value = match value {
                    Value::String(text) => named(&text),
                    Value::Array(items) => items.iter().map(|item| item.as_str().map_or(Value::Null, named)).collect(),
                    other => other,
                };
                ParamType::ChoiceList(names).accept(value)
            }
            (ParamType::Prompts, Value::String(text)) => (!text.is_empty()).then(|| json!([text])),
            (ParamType::Prompts, Value::Array(items)) if is_conversation(&items) => Some(json!([items])),
            (ParamType::Prompts, Value::Array(items)) => (!items.is_empty() && items.iter().all(is_prompt)).then_some(Value::Array(items)),
            _ => None,
        }
    }

    /// Parses the value of a command line flag. Text that does not parse stays a string, which validation rejects.
    pub fn parse_text(self, texts: &[String]) -> Value {
        let text = texts.first().map_or("", String::as_str);
        let raw = || Value::String(text.to_string());
        match self {
            ParamType::Int { .. } | ParamType::IntChoice(_) | ParamType::Processes { .. } => {
                text.parse::<i64>().map_or_else(|_| raw(), Value::from)
            }
            ParamType::Float { .. } => text.parse::<f64>().ok().filter(|x| x.is_finite()).map_or_else(raw, Value::from),
            ParamType::Bool => text.parse::<bool>().map_or_else(|_| raw(), Value::from),
            ParamType::StringList | ParamType::ChoiceList(_) | ParamType::CaselessList { .. } => {
                texts.iter().flat_map(|text| text.split(',')).map(|item| Value::from(item.trim())).collect()
            }
            ParamType::IntList => {
                let numbers = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
                numbers.map(|text| text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)).collect()
            }
            ParamType::FloatList { .. } => {
                let numbers = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
                numbers.map(|text| text.parse::<f64>().map_or_else(|_| Value::from(text), Value::from)).collect()
            }
            ParamType::Prompts | ParamType::Paths | ParamType::GgufAdapters | ParamType::NamedArtifacts | ParamType::TextList => {
                texts.iter().cloned().map(Value::from).collect()
            }
            ParamType::JsonObject => {
                let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
                let pairs = texts.iter().map(|text| text.split_once('=').map(|(k, v)| (k.to_string(), json(v))));
                pairs.collect::<Option<Map<_, _>>>().map_or_else(raw, Value::Object)
            }
            // Values stay strings: the script's PARAMS declare their types.
            ParamType::Object | ParamType::Names(_) => {
                let pairs = texts.iter().map(|text| text.split_once('=').map(|(k, v)| (k.to_string(), Value::from(v))));
                pairs.collect::<Option<Map<_, _>>>().map_or_else(raw, Value::Object)
            }
            _ => raw(),
        }
    }

    /// Whether a value may name a step, whose output is meant.
    pub fn is_artifact(self) -> bool {
        matches!(
            self,
            ParamType::Model
                | ParamType::Adapter
                | ParamType::Candidate
                | ParamType::Imatrix
                | ParamType::AnsweringModel
                | ParamType::GgufAdapters
        )
    }

    /// Whether a flag of this type may be given several times.
    pub fn repeats(self) -> bool {
        matches!(
            self,
            ParamType::Paths
                | ParamType::StringList
                | ParamType::TextList
                | ParamType::IntList
                | ParamType::FloatList { .. }
                | ParamType::GgufAdapters
                | ParamType::NamedArtifacts
                | ParamType::ChoiceList(_)
                | ParamType::CaselessList { .. }
                | ParamType::Prompts
                | ParamType::Object
                | ParamType::JsonObject
                | ParamType::Names(_)
        )
    }
}

/// `{path, weight, max_rows}` as `path::weight=…,max_rows=…`, so that every interface resolves to the same value.
fn table_as_text(table: &Map<String, Value>) -> Option<Value> {
    let path = table.get("path")?.as_str().filter(|path| !path.is_empty())?;
    let options = table.iter().filter(|(name, _)| *name != "path").map(|(name, value)| match value {
        Value::Number(_) => Some(format!("{name}={value}")),
        Value::String(text) if !text.is_empty() && !text.contains(',') => Some(format!("{name}={text}")),
        _ => None,
    });
    let options: Vec<String> = options.collect::<Option<_>>()?;
    Some(Value::from(if options.is_empty() { path.to_string() } else { format!("{path}::{}", options.join(",")) }))
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
