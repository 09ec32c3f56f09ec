//! The types of GGUF tensors and files: one table each, for the parameter `outtype`, the plan, the encoders and Python
//! (`_core.gguf_types`, `_core.gguf_file_types`). What encodes and decodes a type is in `quants` and `encode.rs`.
//!
//! Numbers and blocks are ggml's: `enum ggml_type` and its `type_traits` in `ggml.h` and `ggml.c`, `enum llama_ftype` in `llama.h`.

use serde::{Deserialize, Serialize};

use crate::params::param_type::ParamType;

/// The type of a tensor's elements in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[allow(non_camel_case_types)] // ggml's names
pub(crate) enum Format {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

/// A format's name, number and block.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TensorType {
    /// ggml's name.
    pub name: &'static str,
    /// `enum ggml_type`
    pub id: u32,
    /// Elements in a block.
    pub block: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// The type of a GGUF file: the type of most of its matrices. Others depend on the mix (`gguf_export/mix.py`).
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct FileType {
    /// llama-quantize's name, in lower case: the parameter's value.
    pub name: &'static str,
    /// The value of `general.file_type` (`enum llama_ftype`).
    pub id: u32,
    /// The name of the matrices' type.
    pub tensor_type: &'static str,
}

macro_rules! formats {
    ($($name:ident $id:literal $block:literal $bytes:literal;)*) => {
        impl Format {
            pub const ALL: [Format; [$($id),*].len()] = [$(Format::$name),*];

            /// The table.
            pub const fn tensor_type(self) -> TensorType {
                match self {
                    $(Format::$name => TensorType { name: stringify!($name), id: $id, block: $block, block_bytes: $bytes },)*
                }
            }
        }
    };
}

formats! {
    F32 0 1 4;
    F16 1 1 2;
    BF16 30 1 2;
    Q8_0 8 32 34;
    Q4_0 2 32 18;
    Q4_1 3 32 20;
    Q5_0 6 32 22;
    Q5_1 7 32 24;
    Q2_K 10 256 84;
    Q3_K 11 256 110;
    Q4_K 12 256 144;
    Q5_K 13 256 176;
    Q6_K 14 256 210;
    IQ4_NL 20 32 18;
    IQ4_XS 23 256 136;
}

macro_rules! file_types {
    ($($name:literal $id:literal $format:ident;)*) => {
        /// The table.
        pub(crate) const FILE_TYPES: [FileType; OUTTYPE_NAMES.len()] =
            [$(FileType { name: $name, id: $id, tensor_type: Format::$format.tensor_type().name }),*];
        const OUTTYPE_NAMES: [&str; [$($name),*].len()] = [$($name),*];
    };
}

file_types! {
    "f32" 0 F32;
    "f16" 1 F16;
    "bf16" 32 BF16;
    "q8_0" 7 Q8_0;
    "q4_0" 2 Q4_0;
    "q4_1" 3 Q4_1;
    "q5_0" 8 Q5_0;
    "q5_1" 9 Q5_1;
    "q2_k" 10 Q2_K;
    "q2_k_s" 21 Q2_K;
    "q3_k_s" 11 Q3_K;
    "q3_k_m" 12 Q3_K;
    "q3_k_l" 13 Q3_K;
    "q4_k_s" 14 Q4_K;
    "q4_k_m" 15 Q4_K;
    "q5_k_s" 16 Q5_K;
    "q5_k_m" 17 Q5_K;
    "q6_k" 18 Q6_K;
    "iq4_nl" 25 IQ4_NL;
    "iq4_xs" 30 IQ4_XS;
}

/// The parameter's type: the files that can be written. In either case, and with llama-quantize's aliases.
pub(crate) const OUTTYPE: ParamType =
    ParamType::CaselessList { names: &OUTTYPE_NAMES, aliases: &[("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m")] };

/// One of them.
pub(crate) const ONE_OUTTYPE: ParamType = ParamType::Caseless(&OUTTYPE_NAMES);

/// The files that an adapter can be written to: llama.cpp adds its matrices to the base's, so they are not quantized further.
pub(crate) const ADAPTER_OUTTYPE: ParamType = ParamType::CaselessList { names: &["f32", "f16", "bf16", "q8_0"], aliases: &[] };

/// The parameter's type: a tensor type, in either case.
pub(crate) const TENSOR_TYPE: ParamType = ParamType::Caseless(&TENSOR_TYPE_NAMES);

const TENSOR_TYPE_NAMES: [&str; Format::ALL.len()] =
    ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"];

impl Format {
    /// `enum ggml_type`
    pub const fn id(self) -> u32 {
        self.tensor_type().id
    }

    /// Elements in a block, and the block's bytes.
    pub const fn block(self) -> (usize, usize) {
        (self.tensor_type().block, self.tensor_type().block_bytes)
    }

    /// Bytes of that many elements; `None` if they are not a multiple of the block or too many.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        let (block, bytes) = self.block();
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(bytes)).flatten()
    }

    /// Where a block's scale is, a float16. In formats with a second one, that follows.
    pub const fn scale_offset(self) -> usize {
        match self {
            Format::Q2_K => 80,
            Format::Q3_K => 108,
            Format::Q6_K => 208,
            _ => 0,
        }
    }

    /// The format with a ggml name, in either case.
    pub fn by_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.tensor_type().name.eq_ignore_ascii_case(name))
    }

    /// The format with a number of `enum ggml_type`.
    pub fn by_id(id: u32) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.id() == id)
    }
}

impl TryFrom<String> for Format {
    type Error = String;

    fn try_from(name: String) -> Result<Format, String> {
        Format::by_name(&name).ok_or_else(|| {
            format!("unknown tensor type {name:?}; the types are {}", Format::ALL.map(|format| format.tensor_type().name).join(", "))
        })
    }
}

/// All tensor types, for Python.
pub(crate) fn tensor_types() -> Vec<TensorType> {
    Format::ALL.map(Format::tensor_type).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_numbers_found() {
        for format in Format::ALL {
            assert_eq!(serde_json::from_value::<Format>(format.tensor_type().name.into()).unwrap(), format);
            assert_eq!(Format::by_id(format.id()), Some(format));
        }
        let error = serde_json::from_str::<Format>("\"Q4_9\"").unwrap_err().to_string();
        assert!(error.contains("Q4_9") && error.contains("BF16"), "{error}");
        assert_eq!(TENSOR_TYPE_NAMES.map(str::to_ascii_uppercase), Format::ALL.map(|format| format.tensor_type().name.to_string()));
    }

    #[test]
    fn every_file_type_has_a_known_tensor_type() {
        for file in FILE_TYPES {
            assert!(Format::by_name(file.tensor_type).is_some(), "{}", file.name);
        }
    }
}
