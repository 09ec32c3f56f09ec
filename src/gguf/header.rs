//! The bytes before a GGUF file's tensors: keys with their values, and where each tensor lies.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use crate::gguf::plan::{Key, Plan, Value};
use crate::gguf::rows::Rows;
use crate::gguf::vocabulary::Words;

/// Where tensors begin is a multiple of this, counted from the end of the header, as is that end itself.
pub(crate) const ALIGNMENT: usize = 32;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// llama.cpp's `GGML_MAX_NAME`, with the zero byte that ends a name in C.
const LONGEST_NAME: usize = 63;
/// llama.cpp's `GGML_MAX_DIMS`.
const MOST_DIMENSIONS: usize = 4;

/// The header, with zeros up to the first tensor.
pub(crate) fn header(plan: &Plan, tensors: &[Rows<'_>]) -> Result<Vec<u8>> {
    let words = plan.vocabulary.as_ref().map(Words::read).transpose()?;
    let keys = &plan.keys;
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());

    let mut known = HashSet::new();
    for Key { key, value } in keys {
        ensure!(known.insert(key.as_str()), "the GGUF plan has the key {key} twice");
        text(&mut out, key);
        put(&mut out, value, words.as_ref()).with_context(|| format!("the GGUF plan has {key} and no vocabulary"))?;
    }

    known.clear();
    let mut offset = 0_u64;
    for rows in tensors {
        let (name, shape) = (rows.tensor.name.as_str(), &rows.tensor.shape);
        ensure!(known.insert(name), "the GGUF plan has the tensor {name} twice");
        ensure!(name.len() <= LONGEST_NAME, "the tensor name {name} has more than the {LONGEST_NAME} bytes that GGUF readers take");
        ensure!(shape.len() <= MOST_DIMENSIONS, "tensor {name} has more than {MOST_DIMENSIONS} dimensions");
        text(&mut out, name);
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

/// A value behind the number of its type (`enum gguf_type`); nothing where it is one of words that there are not.
fn put(out: &mut Vec<u8>, value: &Value, words: Option<&Words>) -> Option<()> {
    match value {
        Value::Uint32(value) => scalar(out, 4, &value.to_le_bytes()),
        Value::Int32(value) => scalar(out, 5, &value.to_le_bytes()),
        Value::Float32(value) => scalar(out, 6, &value.to_le_bytes()),
        Value::Bool(value) => scalar(out, 7, &[u8::from(*value)]),
        Value::String(value) => {
            scalar(out, 8, &[]);
            text(out, value);
        }
        Value::Uint32s(values) => array(out, 4, values, |out, value| out.extend(value.to_le_bytes())),
        Value::Int32s(values) => array(out, 5, values, |out, value| out.extend(value.to_le_bytes())),
        Value::Bools(values) => array(out, 7, values, |out, value| out.push(u8::from(*value))),
        Value::Strings(values) => texts(out, values),
        Value::Tokens => texts(out, &words?.tokens),
        Value::Merges => texts(out, &words?.merges),
        Value::Types => array(out, 5, &words?.types, |out, value| out.extend(value.to_le_bytes())),
    }
    Some(())
}

fn scalar(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn texts(out: &mut Vec<u8>, values: &[String]) {
    array(out, 8, values, |out, value| text(out, value));
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

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
