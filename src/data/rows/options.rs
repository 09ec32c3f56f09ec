//! Options of the preparation of a data set; names and values are those of the parameters.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::data::parse::columns::Layout;

/// The options that determine a data set's rows, besides the data, the tokenizer and the template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Longest sample, in tokens.
    pub max_length: u32,
    pub overlong: Overlong,
    pub thinking: Thinking,
    pub drop_duplicates: bool,
    /// Fraction of the conversations held out for evaluation.
    pub eval_split: f64,
    pub seed: u32,
    /// How the items are read: `shape` and `columns`.
    #[serde(flatten)]
    pub layout: Layout,
    /// Variables for the chat template; those of a conversation take precedence.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub template_kwargs: Map<String, Value>,
    /// Rows of the model's embedding, if known. It decides only whether the rows are refused.
    #[serde(skip)]
    pub embedding_rows: Option<u32>,
    /// The most positions that the model has, if known. For messages.
    #[serde(skip)]
    pub positions: Option<u64>,
}

impl Options {
    /// Selects the options among resolved parameters.
    pub fn of(params: &Map<String, Value>) -> anyhow::Result<Options> {
        Ok(serde_json::from_value(Value::Object(params.clone()))?)
    }
}

/// Treatment of a sample with more than `max_length` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// Nothing is prepared; the error names the samples.
    Error,
    Drop,
    /// Keeps the end.
    TruncateLeft,
    /// Keeps the beginning.
    TruncateRight,
}

/// Treatment of the assistant's reasoning (`<think>…</think>`, `reasoning_content`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// Trained on where the template renders it.
    Keep,
    /// Removed from the conversations.
    Drop,
    /// Rendered, but not trained on.
    Mask,
}

fn null_as_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
