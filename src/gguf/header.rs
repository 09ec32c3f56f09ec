//! The header of a GGUF file: metadata, and the name, shape, type and offset of each tensor.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use crate::gguf::plan::{GgufPlan, KeyValue, MetadataValue};
use crate::gguf::rows::TensorRows;
use crate::gguf::vocabulary::VocabularyTokens;

/// The end of the header, and each tensor's offset from there, are multiples of this.
pub(crate) const ALIGNMENT: usize = 32;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// llama.cpp's `GGML_MAX_NAME`, with the zero byte that ends a name in C.
const LONGEST_NAME: usize = 63;
/// llama.cpp's `GGML_MAX_DIMS`.
const MOST_DIMENSIONS: usize = 4;

/// The header, padded with zeros up to the first tensor.
pub(crate) fn header(plan: &GgufPlan, tensors: &[TensorRows<'_>]) -> Result<Vec<u8>> {
    let tokens = plan.vocabulary.as_ref().map(VocabularyTokens::read).transpose()?;
    let keys = &plan.keys;
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());

    let mut known = HashSet::new();
    for KeyValue { key, value } in keys {
        ensure!(known.insert(key.as_str()), "the GGUF plan has the key {key} twice");
        string(&mut out, key);
        put(&mut out, value, tokens.as_ref()).with_context(|| format!("the GGUF plan has the key {key} but no vocabulary"))?;
    }

    known.clear();
    let mut offset = 0_u64;
    for rows in tensors {
        let (name, shape) = (rows.tensor.name.as_str(), &rows.tensor.shape);
        ensure!(known.insert(name), "the GGUF plan has the tensor {name} twice");
        ensure!(name.len() <= LONGEST_NAME, "the tensor name {name} has more than the {LONGEST_NAME} bytes that GGUF readers accept");
        ensure!(shape.len() <= MOST_DIMENSIONS, "tensor {name} has more than {MOST_DIMENSIONS} dimensions");
        string(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        for dimension in shape.iter().rev() {
            out.extend((*dimension as u64).to_le_bytes());
        }
        out.extend(rows.tensor.format.id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += rows.bytes().next_multiple_of(ALIGNMENT) as u64;
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    Ok(out)
}

/// Writes the number of the value's type (`enum gguf_type`), then the value. `None` if it needs a vocabulary and there is none.
fn put(out: &mut Vec<u8>, value: &MetadataValue, tokens: Option<&VocabularyTokens>) -> Option<()> {
    match value {
        MetadataValue::Uint32(value) => scalar(out, 4, &value.to_le_bytes()),
        MetadataValue::Int32(value) => scalar(out, 5, &value.to_le_bytes()),
        MetadataValue::Float32(value) => scalar(out, 6, &value.to_le_bytes()),
        MetadataValue::Bool(value) => scalar(out, 7, &[u8::from(*value)]),
        MetadataValue::String(value) => {
            scalar(out, 8, &[]);
            string(out, value);
        }
        MetadataValue::Uint32s(values) => array(out, 4, values, |out, value| out.extend(value.to_le_bytes())),
        MetadataValue::Int32s(values) => array(out, 5, values, |out, value| out.extend(value.to_le_bytes())),
        MetadataValue::Bools(values) => array(out, 7, values, |out, value| out.push(u8::from(*value))),
        MetadataValue::Strings(values) => strings(out, values),
        MetadataValue::Tokens => strings(out, &tokens?.tokens),
        MetadataValue::Merges => strings(out, &tokens?.merges),
        MetadataValue::Types => array(out, 5, &tokens?.types, |out, value| out.extend(value.to_le_bytes())),
    }
    Some(())
}

fn scalar(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn strings(out: &mut Vec<u8>, values: &[String]) {
    array(out, 8, values, |out, value| string(out, value));
}

fn array<T>(out: &mut Vec<u8>, kind: u32, values: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    const ARRAY: u32 = 9;
    out.extend(ARRAY.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((values.len() as u64).to_le_bytes());
    for value in values {
        put(out, value);
    }
}

fn string(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}
