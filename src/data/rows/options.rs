//! How a data set is prepared; the names and values are those of the parameters.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What decides the rows that a data set becomes, besides the data, the tokenizer and the template.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Longest sample, in tokens.
    pub max_length: u32,
    pub overlong: Overlong,
    pub thinking: Thinking,
    pub drop_duplicates: bool,
    /// Share of the conversations held out for evaluation.
    pub eval_split: f64,
    pub seed: u32,
}

impl Options {
    /// Of resolved parameters, which hold them among others.
    pub fn of(params: &Map<String, Value>) -> anyhow::Result<Options> {
        Ok(serde_json::from_value(Value::Object(params.clone()))?)
    }
}

/// What happens to a sample of more than `max_length` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// Nothing is prepared; the samples are named.
    Error,
    Drop,
    /// The end is kept.
    TruncateLeft,
    /// The beginning is kept.
    TruncateRight,
}

/// What happens to the assistant's thoughts (`<think>…</think>`, `reasoning_content`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// Learned where the template shows them.
    Keep,
    /// Taken out of the conversations.
    Drop,
    /// Shown, and not learned.
    Mask,
}
