//! Safetensors files, mapped into memory. Offsets and shapes are checked before use, because the files are untrusted input.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::base::error;

/// The dtype of stored elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredType {
    F32,
    F16,
    BF16,
}

impl StoredType {
    pub fn bytes(self) -> usize {
        match self {
            StoredType::F32 => 4,
            StoredType::F16 | StoredType::BF16 => 2,
        }
    }
}

/// One safetensors file.
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    tensors: HashMap<String, TensorSpan>,
}

/// The bytes of a tensor in its file.
#[derive(Clone, Debug)]
struct TensorSpan {
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    bytes: usize,
}

/// A tensor in a safetensors file.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor<'a> {
    pub stored: StoredType,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Little-endian elements, row by row, at any alignment.
    pub data: &'a [u8],
}

impl SafetensorsFile {
    /// Maps a file and reads its header.
    ///
    /// As with every memory map, if another program truncates the file during reading, this process is killed (SIGBUS).
    pub fn open(path: &Path) -> Result<SafetensorsFile> {
        let file = File::open(path).with_context(|| format!("the weights {} cannot be read", path.display()))?;
        // SAFETY: the map is only read as bytes, and any bytes are valid. Truncation by another program is documented above.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("the weights {} cannot be mapped", path.display()))?;
        let tensors = tensor_spans(&map).map_err(|cause| {
            error::model(format!("{} is not a complete safetensors file: {cause}; copy or download it again", path.display()))
        })?;
        // Only a hint: if the kernel ignores it, reading is slower.
        let _ = map.advise(Advice::Sequential);
        Ok(SafetensorsFile { path: path.to_path_buf(), map, tensors })
    }

    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>> {
        let span = self.span(name)?;
        let stored = match span.dtype {
            Dtype::F32 => StoredType::F32,
            Dtype::F16 => StoredType::F16,
            Dtype::BF16 => StoredType::BF16,
            other => {
                return Err(error::model(format!(
                    "tensor {name} in {} is stored as {other:?}; only F32, F16 and BF16 can be converted: \
                     give the unquantized model",
                    self.path.display()
                )));
            }
        };
        Ok(StoredTensor { stored, shape: &span.shape, data: &self.map[span.start..span.start + span.bytes] })
    }

    /// Tells the kernel that this tensor's pages may be removed from memory.
    pub fn release(&self, name: &str) {
        if let Ok(span) = self.span(name) {
            // SAFETY: the file is mapped read-only, so dropped pages are read from the file again.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, span.start, span.bytes) };
        }
    }

    fn span(&self, name: &str) -> Result<&TensorSpan> {
        self.tensors
            .get(name)
            .ok_or_else(|| error::model(format!("{} has no tensor {name}; copy or download the model again", self.path.display())))
    }
}

/// A tensor as the header of its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorHeader {
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: usize,
}

/// The tensors of a safetensors file; reads only its header.
pub(crate) fn tensors(path: &Path) -> Result<Vec<TensorHeader>> {
    let tensors = SafetensorsFile::open(path)?.tensors.into_iter();
    Ok(tensors.map(|(name, TensorSpan { shape, bytes, .. })| TensorHeader { name, shape, bytes }).collect())
}

/// Whether two tensors, each of a file and by its name, have the same dtype, shape and bytes.
pub(crate) fn same_tensor(one: (&Path, &str), other: (&Path, &str)) -> Result<bool> {
    let files = [SafetensorsFile::open(one.0)?, SafetensorsFile::open(other.0)?];
    let [one, other] = [files[0].tensor(one.1)?, files[1].tensor(other.1)?];
    Ok(one.stored == other.stored && one.shape == other.shape && one.data == other.data)
}

/// The span of each tensor of a safetensors file, from the file's bytes. The library checks that the tensors follow each other
/// without gaps up to the end of the file, and that each has the length that its shape says.
fn tensor_spans(bytes: &[u8]) -> Result<HashMap<String, TensorSpan>, SafeTensorError> {
    let (header, metadata) = SafeTensors::read_metadata(bytes)?;
    let data = size_of::<u64>() + header;
    let span = |(name, info): (String, &TensorInfo)| {
        let (start, end) = info.data_offsets;
        (name, TensorSpan { dtype: info.dtype, shape: info.shape.clone(), start: data + start, bytes: end - start })
    };
    Ok(metadata.tensors().into_iter().map(span).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    const GOOD: &str =
        r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;

    #[test]
    fn spans_are_those_of_the_header() {
        let found = tensor_spans(&file(GOOD, 16)).unwrap();
        assert_eq!((found["a"].start, found["a"].bytes), (8 + GOOD.len(), 12));
        assert_eq!((found["b"].start, found["b"].shape.as_slice()), (8 + GOOD.len() + 12, &[1][..]));
    }

    #[test]
    fn files_with_wrong_headers_are_refused() {
        let cut = file(GOOD, 15);
        let long = file(GOOD, 17);
        let too_short_for_its_shape = file(&GOOD.replace("[2,3]", "[2,4]"), 16);
        let overlapping = file(&GOOD.replace("[12,16]", "[8,12]"), 16);
        let overflowing = file(&GOOD.replace("[2,3]", "[4294967296,4294967296,4294967296]"), 16);
        let backwards = file(&GOOD.replace("[12,16]", "[16,12]"), 16);
        let header_beyond_the_end = [&200_u64.to_le_bytes()[..], b"{}"].concat();
        for bad in [cut, long, too_short_for_its_shape, overlapping, overflowing, backwards, header_beyond_the_end, Vec::new()] {
            assert!(tensor_spans(&bad).is_err());
        }
    }

    #[test]
    fn a_broken_file_is_named_with_a_fix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, b"version https://git-lfs.github.com/spec/v1").unwrap();
        let error = SafetensorsFile::open(&path).err().unwrap();
        assert_eq!(error::Error::of(&error).kind, error::Kind::Model);
        assert!(error.to_string().contains("model.safetensors") && error.to_string().contains("download it again"), "{error}");
    }

    #[test]
    fn unsupported_dtypes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, file(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4)).unwrap();
        let error = SafetensorsFile::open(&path).unwrap().tensor("a").unwrap_err().to_string();
        assert!(error.contains("tensor a") && error.contains("U8") && error.contains("unquantized model"), "{error}");
    }

    proptest! {
        /// For any bytes: no panic, and no tensor outside the file.
        #[test]
        fn no_span_is_outside_the_file(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = file(GOOD, 16);
            for (place, byte) in edits {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.truncate(bytes.len() - cut.index(bytes.len()) % 3);
            for span in tensor_spans(&bytes).into_iter().flatten().map(|(_, span)| span) {
                prop_assert!(span.start + span.bytes <= bytes.len());
            }
        }
    }
}
