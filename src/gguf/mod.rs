//! GGUF files: a plan, made where names and formats are known (Python's `gguf` package), is carried out here.
//!
//! [`write`] maps the plan's safetensors files, converts rows on all cores while the rows before them are written, and
//! gives the file its name at the end. Memory stays bounded by a few buffers, whatever the model's size.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, version 3. Bytes of tensors are those of
//! llama.cpp's `convert_hf_to_gguf.py`, that is of `gguf.quants` in Python.
//!
//! The plan is made in Python, because the `gguf` package knows names and keys. Rust moves and rounds the bytes without loading the
//! model. It also copies the tokens of the vocabulary, which Python never reads.

mod encode;
mod header;
mod plan;
mod rows;
mod source;
#[cfg(test)]
mod tests;
mod types;
mod vocabulary;
mod write;

pub(crate) use source::{Tensor, tensors};
pub(crate) use types::{OUTTYPE, tensor_types};
pub use write::write;
