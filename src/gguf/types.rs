//! The tensor types of GGUF files: one table for the parameter `outtype`, the plan, the encoder and Python (`_core.gguf_types`).
//!
//! Numbers and blocks are ggml's: `enum ggml_type` and its `type_traits` in `ggml.h` and `ggml.c`, `enum llama_ftype` in `llama.h`.

use serde::{Deserialize, Serialize};

use crate::params::param_type::ParamType;

/// The type of a tensor's elements in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Format {
    F32,
    F16,
    BF16,
    Q8_0,
}

/// A format's names, numbers and block size.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TensorType {
    /// ggml's name.
    pub name: &'static str,
    /// The name in llama.cpp's converter and in the parameter `outtype` for files with matrices of this type; none if matrices
    /// are never stored in it.
    pub outtype: Option<&'static str>,
    /// The value of `general.file_type` in such files (`enum llama_ftype`).
    pub file_type: Option<u32>,
    /// `enum ggml_type`
    pub id: u32,
    /// Elements in a block.
    pub block: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::F32, Format::F16, Format::BF16, Format::Q8_0];

    /// The table.
    pub const fn tensor_type(self) -> TensorType {
        match self {
            Format::F32 => TensorType { name: "F32", outtype: None, file_type: None, id: 0, block: 1, block_bytes: 4 },
            Format::F16 => TensorType { name: "F16", outtype: Some("f16"), file_type: Some(1), id: 1, block: 1, block_bytes: 2 },
            Format::BF16 => TensorType { name: "BF16", outtype: Some("bf16"), file_type: Some(32), id: 30, block: 1, block_bytes: 2 },
            Format::Q8_0 => TensorType { name: "Q8_0", outtype: Some("q8_0"), file_type: Some(7), id: 8, block: 32, block_bytes: 34 },
        }
    }

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
}

impl TryFrom<String> for Format {
    type Error = String;

    fn try_from(name: String) -> Result<Format, String> {
        let known = Format::ALL.into_iter().find(|format| format.tensor_type().name == name);
        known.ok_or_else(|| {
            format!("unknown tensor type {name:?}; the types are {}", Format::ALL.map(|format| format.tensor_type().name).join(", "))
        })
    }
}

/// All types, for Python.
pub(crate) fn tensor_types() -> Vec<TensorType> {
    Format::ALL.map(Format::tensor_type).to_vec()
}

/// The parameter's type: the tensor types that can be chosen for matrices.
pub(crate) const OUTTYPE: ParamType = ParamType::ChoiceList(&OUTTYPES);

const OUTTYPES: [&str; outtype_count()] = {
    let (mut names, mut index, mut count) = ([""; outtype_count()], 0, 0);
    while index < Format::ALL.len() {
        if let Some(name) = Format::ALL[index].tensor_type().outtype {
            names[count] = name;
            count += 1;
        }
        index += 1;
    }
    names
};

const fn outtype_count() -> usize {
    let (mut index, mut count) = (0, 0);
    while index < Format::ALL.len() {
        if Format::ALL[index].tensor_type().outtype.is_some() {
            count += 1;
        }
        index += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_outtypes_are_offered_in_the_order_of_the_table() {
        for format in Format::ALL {
            assert_eq!(serde_json::from_value::<Format>(format.tensor_type().name.into()).unwrap(), format);
        }
        let error = serde_json::from_str::<Format>("\"Q4_0\"").unwrap_err().to_string();
        assert!(error.contains("Q4_0") && error.contains("BF16"), "{error}");
        assert_eq!(OUTTYPES, ["f16", "bf16", "q8_0"]);
    }
}
