//! Importance matrices of llama-imatrix: how much each column of a matrix matters, for each matrix that a model multiplies with.
//!
//! Two forms are read (`common_imatrix_load` and `load_imatrix` in llama.cpp): a GGUF file, with sums of squared inputs
//! (`NAME.in_sum2`, [matrices, columns]) and the number of inputs (`NAME.counts`, [matrices, 1]); and the older binary form.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::base::error;
use crate::gguf::quants::decode;
use crate::gguf::reader::{GgufReader, GgufTensor};
use crate::gguf::types::Format;

/// The importance of columns by the name of the tensor. With experts, one expert's columns follow another's.
#[derive(Debug, Default)]
pub(crate) struct ImportanceMatrix {
    entries: HashMap<String, Vec<f32>>,
    /// Names of the data that it was computed on.
    datasets: Vec<String>,
    chunks: u64,
}

impl ImportanceMatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// Kind `model` if the file is damaged or has no importance matrix, kind `io` if it cannot be read.
    pub fn read(path: &Path) -> Result<ImportanceMatrix> {
        let bytes = std::fs::read(path).with_context(|| format!("the importance matrix {} cannot be read", path.display()))?;
        let matrix = if bytes.starts_with(b"GGUF") { from_gguf(&GgufReader::open(path)?) } else { from_legacy(&bytes) };
        matrix.and_then(ImportanceMatrix::checked).map_err(|cause| {
            error::model(format!("{} is not an importance matrix: {cause:#}; give a file of llama-imatrix", path.display()))
        })
    }

    fn checked(self) -> Result<ImportanceMatrix> {
        ensure!(!self.entries.is_empty(), "it has no entries");
        let wrong = self.entries.iter().find(|(_, numbers)| !numbers.iter().all(|number| number.is_finite() && *number >= 0.0));
        if let Some((name, _)) = wrong {
            bail!("the importance of {name} has numbers that are negative or not finite");
        }
        Ok(self)
    }

    /// The importance of a tensor's columns; `None` if the file lacks it.
    pub fn of(&self, name: &str) -> Option<&[f32]> {
        self.entries.get(name).map(Vec::as_slice)
    }

    /// For Python: the names and the number of columns, the datasets and chunks.
    pub fn describe(&self) -> Value {
        let entries: serde_json::Map<String, Value> =
            self.entries.iter().map(|(name, numbers)| (name.clone(), numbers.len().into())).collect();
        json!({"entries": entries, "datasets": self.datasets, "chunks": self.chunks})
    }
}

fn from_gguf(file: &GgufReader) -> Result<ImportanceMatrix> {
    ensure!(file.keys.get("general.type").is_none_or(|kind| kind == "imatrix"), "its general.type is not imatrix");
    let numbers = |tensor: &GgufTensor| {
        ensure!(tensor.format == Format::F32, "tensor {} is not float32", tensor.name);
        let mut numbers = vec![0.0; tensor.bytes / 4];
        decode(tensor.format, file.bytes(tensor), &mut numbers);
        Ok(numbers)
    };
    let mut matrix =
        ImportanceMatrix { chunks: file.keys.get("imatrix.chunk_count").and_then(Value::as_u64).unwrap_or(0), ..Default::default() };
    let datasets = file.keys.get("imatrix.datasets").and_then(Value::as_array);
    matrix.datasets = datasets.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
    for tensor in &file.tensors {
        let Some(name) = tensor.name.strip_suffix(".in_sum2") else { continue };
        let counts = file.tensor(&format!("{name}.counts")).with_context(|| format!("{name} has no counts"))?;
        let (mut sums, counts) = (numbers(tensor)?, numbers(counts)?);
        ensure!(
            !counts.is_empty() && sums.len().is_multiple_of(counts.len()),
            "{name} has {} sums for {} counts",
            sums.len(),
            counts.len()
        );
        let columns = sums.len() / counts.len();
        ensure!(columns > 0, "{name} has no columns");
        for (sums, count) in sums.chunks_mut(columns).zip(counts) {
            // An expert that met no token has no statistics: all columns matter alike.
            for sum in sums {
                *sum = if count > 0.0 { *sum / count } else { 1.0 };
            }
        }
        matrix.entries.insert(name.to_string(), sums);
    }
    Ok(matrix)
}

/// The older form: a count of entries, and for each the name, the number of calls, and its means times that number.
fn from_legacy(bytes: &[u8]) -> Result<ImportanceMatrix> {
    let mut rest = Legacy(bytes);
    let mut matrix = ImportanceMatrix::default();
    for _ in 0..rest.count()? {
        let length = rest.count()?;
        let name = String::from_utf8_lossy(rest.take(length)?).into_owned();
        let (calls, length) = (rest.count()?, rest.count()?);
        let sums = rest.take(length.checked_mul(4).context("an entry is too long")?)?.as_chunks().0.iter();
        let divisor = if calls > 0 { calls as f32 } else { 1.0 };
        matrix.entries.insert(name, sums.map(|sum| f32::from_le_bytes(*sum) / divisor).collect());
    }
    // Optional in early files.
    if let Ok(chunks) = rest.count() {
        matrix.chunks = chunks as u64;
        let length = rest.count().unwrap_or(0);
        matrix
            .datasets
            .extend(rest.take(length).ok().filter(|name| !name.is_empty()).map(|name| String::from_utf8_lossy(name).into_owned()));
    }
    Ok(matrix)
}

/// The remaining bytes of a file of the older form.
struct Legacy<'a>(&'a [u8]);

impl<'a> Legacy<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("it is neither a GGUF file nor of the older form")?;
        self.0 = rest;
        Ok(taken)
    }

    fn count(&mut self) -> Result<usize> {
        Ok(usize::try_from(i32::from_le_bytes(self.take(4)?.try_into()?))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legacy() -> Vec<u8> {
        let mut bytes = 1_i32.to_le_bytes().to_vec();
        bytes.extend(3_i32.to_le_bytes());
        bytes.extend(b"a.b");
        bytes.extend(2_i32.to_le_bytes());
        bytes.extend(2_i32.to_le_bytes());
        bytes.extend(3.0_f32.to_le_bytes());
        bytes.extend(5.0_f32.to_le_bytes());
        bytes
    }

    #[test]
    fn the_older_form_is_read_with_and_without_its_trailer() {
        let mut bytes = legacy();
        assert_eq!(from_legacy(&bytes).unwrap().of("a.b").unwrap(), [1.5, 2.5]);
        bytes.extend([7_i32.to_le_bytes(), 4_i32.to_le_bytes()].concat());
        bytes.extend(b"text");
        let matrix = from_legacy(&bytes).unwrap();
        assert_eq!((matrix.chunks, matrix.datasets), (7, vec!["text".to_string()]));
    }

    #[test]
    fn damaged_files_are_refused_without_a_panic() {
        let good = legacy();
        for end in 0..good.len() {
            assert!(from_legacy(&good[..end]).and_then(ImportanceMatrix::checked).is_err(), "cut to {end} bytes");
        }
        for at in 0..good.len() - 4 {
            for number in [-1, i32::MIN, i32::MAX, 1 << 20] {
                let mut bytes = good.clone();
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
                let _ = from_legacy(&bytes).and_then(ImportanceMatrix::checked);
            }
        }
        let mut infinite = good;
        let end = infinite.len();
        infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let error = from_legacy(&infinite).and_then(ImportanceMatrix::checked).unwrap_err().to_string();
        assert!(error.contains("a.b"), "{error}");
    }
}
