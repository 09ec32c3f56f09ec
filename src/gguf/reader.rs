//! Reads the header of a GGUF file: keys and tensors. Files are untrusted input: every count, length and offset is checked before use.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use serde_json::{Map, Number, Value};

use crate::base::error;
use crate::gguf::types::Format;

/// ggml's limits.
const MOST_DIMENSIONS: u32 = 4;
/// Arrays in arrays deeper than this are refused.
const DEEPEST: u32 = 4;

/// A GGUF file, mapped into memory.
pub(crate) struct GgufReader {
    map: Mmap,
    pub keys: Map<String, Value>,
    pub tensors: Vec<GgufTensor>,
}

/// A tensor of a GGUF file.
#[derive(Clone, Debug)]
pub(crate) struct GgufTensor {
    pub name: String,
    /// Innermost dimension first.
    pub shape: Vec<usize>,
    pub format: Format,
    /// From the start of the file.
    pub offset: usize,
    pub bytes: usize,
}

impl GgufReader {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// Kind `model` if the file is not a complete GGUF file, kind `io` if it cannot be read.
    pub fn open(path: &Path) -> Result<GgufReader> {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        // SAFETY: the map is only read as bytes, and any bytes are valid. As with every memory map, truncation by another program
        // kills this process.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("{} cannot be mapped", path.display()))?;
        let (keys, tensors) = header(&map).map_err(|cause| {
            error::model(format!("{} is not a complete GGUF file: {cause:#}; copy, download or convert it again", path.display()))
        })?;
        Ok(GgufReader { map, keys, tensors })
    }

    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.map[tensor.offset..tensor.offset + tensor.bytes]
    }
}

/// Keys and tensors of a file as JSON: `{"keys": {…}, "tensors": [{"name", "shape", "type", "offset", "bytes"}, …]}`. Shapes have the
/// outermost dimension first. Keys with arrays, such as the vocabulary, are left out unless `arrays`.
pub(crate) fn describe(path: &Path, arrays: bool) -> Result<Value> {
    let mut file = GgufReader::open(path)?;
    file.keys.retain(|_, value| arrays || !value.is_array());
    let tensors = file.tensors.iter().map(|tensor| {
        serde_json::json!({
            "name": tensor.name,
            "shape": tensor.shape.iter().rev().collect::<Vec<_>>(),
            "type": tensor.format.tensor_type().name,
            "offset": tensor.offset,
            "bytes": tensor.bytes,
        })
    });
    Ok(serde_json::json!({"tensors": tensors.collect::<Vec<_>>(), "keys": file.keys}))
}

/// A position in the file's bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.with_context(|| format!("it ends within its header, {count} bytes after position {}", self.at))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A count or length.
    fn size(&mut self) -> Result<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array()?))?)
    }

    fn string(&mut self) -> Result<String> {
        let length = self.size()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// A value of a type of `enum gguf_type`. Floats that JSON lacks become null.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Value> {
        let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
        Ok(match kind {
            0 => self.array::<1>()?[0].into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => float(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array::<1>()?[0] {
                0 => false.into(),
                1 => true.into(),
                other => bail!("a key has the bool {other}"),
            },
            8 => self.string()?.into(),
            9 => {
                ensure!(depth < DEEPEST, "a key has arrays nested deeper than {DEEPEST}");
                let (kind, count) = (self.u32()?, self.size()?);
                // Every element has at least a byte, so a wrong count cannot reserve much.
                ensure!(count <= self.bytes.len() - self.at, "a key has an array of {count} elements, more than the file has bytes");
                (0..count).map(|_| self.value(kind, depth + 1)).collect::<Result<Vec<_>>>()?.into()
            }
            10 => u64::from_le_bytes(self.array()?).into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => float(f64::from_le_bytes(self.array()?)),
            other => bail!("a key has the unknown type {other}"),
        })
    }
}

fn header(bytes: &[u8]) -> Result<(Map<String, Value>, Vec<GgufTensor>)> {
    let mut cursor = Cursor { bytes, at: 0 };
    ensure!(cursor.take(4)? == b"GGUF", "it does not start with GGUF");
    let version = cursor.u32()?;
    ensure!((2..=3).contains(&version), "it has version {version}; versions 2 and 3 can be read");
    let (tensor_count, key_count) = (cursor.size()?, cursor.size()?);
    let mut keys = Map::new();
    for _ in 0..key_count {
        let key = cursor.string()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0).with_context(|| format!("key {key:?}"))?;
        ensure!(keys.insert(key.clone(), value).is_none(), "it has the key {key:?} twice");
    }
    let alignment = match keys.get("general.alignment") {
        None => 32,
        Some(value) => {
            let given = value.as_u64().filter(|size| size.is_power_of_two() && *size <= 1 << 20);
            given.with_context(|| format!("its alignment {value} is not a power of two"))? as usize
        }
    };
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        let tensor = tensor(&mut cursor, alignment)?;
        ensure!(names.insert(tensor.name.clone()), "it has the tensor {} twice", tensor.name);
        tensors.push(tensor);
    }
    let data = cursor.at.checked_next_multiple_of(alignment).context("it is too large")?;
    let mut spans = Vec::with_capacity(tensors.len());
    for tensor in &mut tensors {
        let place = tensor.offset.checked_add(data).and_then(|start| Some((start, start.checked_add(tensor.bytes)?)));
        let (start, end) = place.filter(|(_, end)| *end <= bytes.len()).with_context(|| {
            format!("tensor {} needs {} bytes from offset {} on, beyond the end of the file", tensor.name, tensor.bytes, tensor.offset)
        })?;
        tensor.offset = start;
        spans.push((start, end, tensor.name.as_str()));
    }
    spans.sort_unstable();
    if let Some(pair) = spans.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        bail!("the tensors {} and {} overlap", pair[0].2, pair[1].2);
    }
    Ok((keys, tensors))
}

fn tensor(cursor: &mut Cursor<'_>, alignment: usize) -> Result<GgufTensor> {
    let name = cursor.string()?;
    let dimensions = cursor.u32()?;
    ensure!((1..=MOST_DIMENSIONS).contains(&dimensions), "tensor {name} has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}");
    let shape = (0..dimensions).map(|_| cursor.size()).collect::<Result<Vec<_>>>()?;
    let id = cursor.u32()?;
    let format = Format::by_id(id).with_context(|| format!("tensor {name} has the type {id}, which cannot be read"))?;
    let offset = cursor.size()?;
    ensure!(offset.is_multiple_of(alignment), "tensor {name} has the offset {offset}, not a multiple of {alignment}");
    let row = format.bytes(shape[0]).with_context(|| format!("tensor {name} has rows of {} elements, not whole blocks", shape[0]))?;
    let bytes = shape[1..].iter().try_fold(row, |bytes, size| bytes.checked_mul(*size));
    let bytes = bytes.with_context(|| format!("tensor {name} has the shape {shape:?}, which is too large"))?;
    Ok(GgufTensor { name, shape, format, offset, bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A file with keys of several types and two tensors.
    fn file() -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(4_u64.to_le_bytes());
        let strings = [&8_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &string("x"), &string("yz")].concat();
        let numbers = [&5_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[7; 8]].concat();
        for (key, kind, value) in
            [("a", 8_u32, string("text")), ("b", 9, strings), ("c", 9, numbers), ("general.alignment", 4, 32_u32.to_le_bytes().to_vec())]
        {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, shape, id, offset) in [("t", [2_u64, 3], 0_u32, 0_u64), ("q", [256, 1], 12, 32)] {
            bytes.extend(string(name));
            bytes.extend(2_u32.to_le_bytes());
            bytes.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(id.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + 32 + 144, 1);
        bytes
    }

    #[test]
    fn keys_and_tensors_are_read() {
        let bytes = file();
        let (keys, tensors) = header(&bytes).unwrap();
        assert_eq!((keys["a"].as_str(), &keys["b"]), (Some("text"), &serde_json::json!(["x", "yz"])));
        assert_eq!((tensors[0].shape.as_slice(), tensors[0].bytes), (&[2, 3][..], 24));
        assert_eq!((tensors[1].format, tensors[1].offset + tensors[1].bytes), (Format::Q4_K, bytes.len()));
    }

    /// Every count, length, type, dimension and offset, replaced by every extreme value.
    #[test]
    fn wrong_numbers_anywhere_are_refused_without_a_panic() {
        let good = file();
        let data = good.len() - 32 - 144;
        let mut refused = 0;
        for at in 4..data - 8 {
            for number in [0, 1, 31, 255, 1 << 20, u64::from(u32::MAX), 1 << 40, i64::MAX as u64, u64::MAX - 31, u64::MAX] {
                for width in [4, 8] {
                    let mut bytes = good.clone();
                    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
                    match header(&bytes) {
                        Ok((_, tensors)) => assert!(tensors.iter().all(|tensor| tensor.offset + tensor.bytes <= bytes.len())),
                        Err(_) => refused += 1,
                    }
                }
            }
        }
        assert!(refused > 1000, "{refused}");
        for end in 0..good.len() {
            assert!(header(&good[..end]).is_err(), "cut to {end} bytes");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let good = file();
        let t = good.windows(9).position(|window| window == b"\x01\0\0\0\0\0\0\0t").unwrap() + 9;
        for (at, number, says) in [
            (4, 9, "version 9"),
            (t, 5, "tensor t has 5 dimensions"),
            (t + 4, 3, "tensors t and q overlap"),
            (t + 20, 99, "tensor t has the type 99"),
            (t + 20, 8, "rows of 2 elements"),
            (t + 24, 33, "offset 33"),
            (t + 24, 1 << 30, "beyond the end"),
        ] {
            let mut bytes = good.clone();
            let width = if at == t + 4 { 8 } else { 4 };
            bytes[at..at + width].copy_from_slice(&u64::from(number as u32).to_le_bytes()[..width]);
            if at == t + 4 {
                bytes[t + 12..t + 20].copy_from_slice(&4_u64.to_le_bytes());
            }
            let error = format!("{:#}", header(&bytes).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    proptest! {
        /// For any bytes: no panic, and no tensor outside the file.
        #[test]
        fn no_tensor_is_outside_the_file(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
            let mut bytes = file();
            for (place, byte) in edits {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            for tensor in header(&bytes).into_iter().flat_map(|(_, tensors)| tensors) {
                prop_assert!(tensor.offset + tensor.bytes <= bytes.len());
            }
        }
    }
}
