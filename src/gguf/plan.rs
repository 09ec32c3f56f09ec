//! What is to be written: the JSON document that `pyrust_nn.gguf_export.plan` makes.
//!
//! ```json
//! {
//!   "version": 1,
//!   "target": "/runs/s1/gguf/model.q8_0.gguf",
//!   "files": ["/models/m/model.safetensors"],
//!   "vocabulary": {"tokenizer": "/models/m/tokenizer.json", "size": 151936,
//!                  "added": [{"id": 151643, "text": "<|endoftext|>", "type": 3}]},
//!   "keys": [{"key": "general.architecture", "value": {"string": "qwen2"}},
//!            {"key": "tokenizer.ggml.tokens", "value": "tokens"}],
//!   "tensors": [
//!     {"name": "output_norm.weight", "type": "F32", "shape": [896], "parts": [{"file": 0, "tensor": "model.norm.weight"}]},
//!     {"name": "blk.0.ffn_gate_exps.weight", "type": "Q8_0", "shape": [2, 128, 64],
//!      "parts": [{"file": 0, "tensor": "model.layers.0.mlp.experts.gate_up_proj", "rows": [[0, 128], [256, 128]]}]},
//!     {"name": "blk.0.ssm_a", "type": "F32", "shape": [2], "values": [-1.5, -0.25]}
//!   ]
//! }
//! ```
//!
//! Shapes are as in `PyTorch`, outermost first. A tensor is a matrix whose columns are its last dimension: its rows are
//! those of its parts, one part after the other; a part takes all rows of its source or the given ranges `[first, count]`,
//! and of each row all columns or the given ranges. `transpose` swaps rows and columns of a matrix before that.
//! `add` is added to every element. `values` stand in the plan itself.
//!
//! The values `tokens`, `types` and `merges` are those of the vocabulary: the words of its `tokenizer.json`, in their places
//! those that were added, with `llama_token_type`, and `size` ids in all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::gguf::types::Format;

const VERSION: u32 = 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    version: u32,
    pub target: PathBuf,
    pub files: Vec<PathBuf>,
    #[serde(default)]
    pub vocabulary: Option<Vocabulary>,
    pub keys: Vec<Key>,
    pub tensors: Vec<Tensor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vocabulary {
    /// `tokenizer.json` of a byte-level BPE.
    pub tokenizer: PathBuf,
    /// Rows of the embedding.
    pub size: usize,
    pub added: Vec<Added>,
}

/// A token that texts are searched for before they are cut.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Added {
    pub id: u32,
    pub text: String,
    #[serde(rename = "type")]
    pub kind: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    pub key: String,
    pub value: Value,
}

/// A value with its type in the file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Value {
    Uint32(u32),
    Int32(i32),
    Float32(f32),
    Bool(bool),
    String(String),
    Uint32s(Vec<u32>),
    Int32s(Vec<i32>),
    Bools(Vec<bool>),
    Strings(Vec<String>),
    Tokens,
    Types,
    Merges,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tensor {
    pub name: String,
    #[serde(rename = "type")]
    pub format: Format,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    #[serde(default)]
    pub parts: Vec<Part>,
    #[serde(default)]
    pub add: Option<f32>,
    #[serde(default)]
    pub values: Option<Vec<f32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// Index into the plan's files.
    pub file: usize,
    pub tensor: String,
    #[serde(default)]
    pub rows: Option<Vec<Range>>,
    #[serde(default)]
    pub columns: Option<Vec<Range>>,
    #[serde(default)]
    pub transpose: bool,
}

/// `[first, count]`
pub(crate) type Range = (usize, usize);

impl Plan {
    pub fn read(path: &Path) -> Result<Plan> {
        let text = std::fs::read(path).with_context(|| format!("the GGUF plan {} cannot be read", path.display()))?;
        let plan: Plan = serde_json::from_slice(&text).with_context(|| format!("{} is no GGUF plan", path.display()))?;
        ensure!(plan.version == VERSION, "the GGUF plan {} has version {}, not {VERSION}", path.display(), plan.version);
        Ok(plan)
    }
}

impl Tensor {
    /// Rows, and elements in each.
    pub fn matrix(&self) -> Option<(usize, usize)> {
        let (columns, rest) = self.shape.split_last()?;
        Some((rest.iter().try_fold(1_usize, |rows, dimension| rows.checked_mul(*dimension))?, *columns))
    }
}
