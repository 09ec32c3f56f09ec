//! The plan of a GGUF file: the JSON document that `pyrust_nn.gguf_export.plan` makes.
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
//! Shapes are as in `PyTorch`, outermost dimension first. A tensor is a matrix whose columns are its last dimension. Its rows are the
//! rows of its parts, in order. A part takes all rows of its stored tensor or the given ranges `[first, count]`, and of each row all
//! columns or the given ranges. `transpose` swaps rows and columns of a matrix before that. `add` is added to every element.
//! `values` are the elements themselves, for a tensor without parts.
//!
//! `half`: numbers are rounded to float16 before they are encoded in blocks, since llama-quantize reads a file of float16. `imatrix`: a file
//! with the importance of each column (see `imatrix.rs`).
//!
//! The values `tokens`, `types` and `merges` come from the vocabulary: the tokens of its `tokenizer.json`, replaced by added tokens
//! with the same id, each with its `llama_token_type`; `size` ids in total.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::gguf::types::Format;

const VERSION: u32 = 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GgufPlan {
    version: u32,
    pub target: PathBuf,
    pub files: Vec<PathBuf>,
    #[serde(default)]
    pub vocabulary: Option<PlannedVocabulary>,
    /// Numbers are rounded to float16 before they are encoded in blocks.
    #[serde(default)]
    pub half: bool,
    /// A file with the importance of columns.
    #[serde(default)]
    pub imatrix: Option<PathBuf>,
    pub keys: Vec<KeyValue>,
    pub tensors: Vec<PlannedTensor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedVocabulary {
    /// `tokenizer.json` of a byte-level BPE.
    pub tokenizer: PathBuf,
    /// Rows of the model's embedding.
    pub size: usize,
    pub added: Vec<PlannedToken>,
}

/// An added token: matched in the text before BPE is applied.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedToken {
    pub id: u32,
    pub text: String,
    #[serde(rename = "type")]
    pub kind: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyValue {
    pub key: String,
    pub value: MetadataValue,
}

/// A metadata value with its type in the file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MetadataValue {
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
pub(crate) struct PlannedTensor {
    pub name: String,
    #[serde(rename = "type")]
    pub format: Format,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    #[serde(default)]
    pub parts: Vec<TensorPart>,
    #[serde(default)]
    pub add: Option<f32>,
    #[serde(default)]
    pub values: Option<Vec<f32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorPart {
    /// Index into the plan's files.
    pub file: usize,
    pub tensor: String,
    #[serde(default)]
    pub rows: Option<Vec<IndexRange>>,
    #[serde(default)]
    pub columns: Option<Vec<IndexRange>>,
    #[serde(default)]
    pub transpose: bool,
}

/// `[first, count]`
pub(crate) type IndexRange = (usize, usize);

impl GgufPlan {
    pub fn read(path: &Path) -> Result<GgufPlan> {
        let text =
            std::fs::read(path).with_context(|| format!("the GGUF plan {} cannot be read; run the conversion again", path.display()))?;
        let plan: GgufPlan = serde_json::from_slice(&text).with_context(|| format!("{} is not a valid GGUF plan", path.display()))?;
        ensure!(plan.version == VERSION, "the GGUF plan {} has version {}, not {VERSION}", path.display(), plan.version);
        Ok(plan)
    }
}

impl PlannedTensor {
    /// Rows, and elements in each.
    pub fn matrix(&self) -> Option<(usize, usize)> {
        let (columns, rest) = self.shape.split_last()?;
        Some((rest.iter().try_fold(1_usize, |rows, dimension| rows.checked_mul(*dimension))?, *columns))
    }
}
