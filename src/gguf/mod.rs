//! Writing of GGUF files: this part executes a plan.
//!
//! [`write`] maps the plan's safetensors files into memory, converts rows on all cores while earlier rows are written, and
//! renames the file to its final name at the end. Memory is limited to a few buffers, regardless of the model's size.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, version 3. The bytes of tensors equal those of
//! llama.cpp's `convert_hf_to_gguf.py`, which uses `gguf.quants` in Python.
//!
//! The plan is made in Python, because the `gguf` package knows names and keys. Rust moves and rounds the bytes without loading the
//! model. It also copies the tokens of the vocabulary, which Python never reads.

mod encode;
mod header;
mod imatrix;
mod plan;
mod quants;
mod reader;
mod rows;
mod safetensors_file;
#[cfg(test)]
mod tests;
mod types;
mod vocabulary;
mod write;

pub(crate) use encode::encode_rows;
pub(crate) use imatrix::ImportanceMatrix;
pub(crate) use quants::{Form, Rows, decode};
pub(crate) use reader::{GgufReader, describe};
pub(crate) use safetensors_file::{TensorHeader, same_tensor, tensors};
pub(crate) use types::{ADAPTER_OUTTYPE, FILE_TYPES, Format, ONE_OUTTYPE, OUTTYPE, TENSOR_TYPE, tensor_types};
pub use write::write;
