//! Safetensors files, mapped into memory. Nothing in them is trusted: offsets and shapes are checked before use.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::base::error;

/// What elements are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    F16,
    BF16,
}

impl Stored {
    pub fn bytes(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::F16 | Stored::BF16 => 2,
        }
    }
}

/// One safetensors file.
pub(crate) struct Source {
    path: PathBuf,
    map: Mmap,
    tensors: HashMap<String, Stretch>,
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug)]
struct Stretch {
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    bytes: usize,
}

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stocked<'a> {
    pub stored: Stored,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Little-endian elements, row by row, at any alignment.
    pub data: &'a [u8],
}

impl Source {
    /// Maps a file and reads its header.
    ///
    /// As with every mapping, another program that shortens the file while it is read ends this one (SIGBUS).
    pub fn open(path: &Path) -> Result<Source> {
        let file = File::open(path).with_context(|| format!("the weights {} cannot be read", path.display()))?;
        // SAFETY: the map is only read, as bytes, for which any content is valid; see above for what remains.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("the weights {} cannot be mapped", path.display()))?;
        let tensors = stretches(&map).map_err(|cause| {
            error::model(format!("{} is no whole safetensors file: {cause}; copy or download it again", path.display()))
        })?;
        // Only a hint: where the kernel does not take it, reading is slower.
        let _ = map.advise(Advice::Sequential);
        Ok(Source { path: path.to_path_buf(), map, tensors })
    }

    pub fn tensor(&self, name: &str) -> Result<Stocked<'_>> {
        let stretch = self.stretch(name)?;
        let stored = match stretch.dtype {
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::BF16,
            other => {
                return Err(error::model(format!(
                    "tensor {name} in {} is stored as {other:?}; only F32, F16 and BF16 can be converted: \
                     give the plain model instead of a quantized one",
                    self.path.display()
                )));
            }
        };
        Ok(Stocked { stored, shape: &stretch.shape, data: &self.map[stretch.start..stretch.start + stretch.bytes] })
    }

    /// Tells the kernel that this tensor's pages need not stay in our memory.
    pub fn release(&self, name: &str) {
        if let Ok(stretch) = self.stretch(name) {
            // SAFETY: pages of a file that is mapped for reading only come back from the file when they are read again.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, stretch.start, stretch.bytes) };
        }
    }

    fn stretch(&self, name: &str) -> Result<&Stretch> {
        self.tensors
            .get(name)
            .ok_or_else(|| error::model(format!("{} has no tensor {name}; copy or download the model again", self.path.display())))
    }
}

/// A tensor as the header of its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: usize,
}

/// The tensors of a safetensors file, by its header alone.
pub(crate) fn tensors(path: &Path) -> Result<Vec<Tensor>> {
    let tensors = Source::open(path)?.tensors.into_iter();
    Ok(tensors.map(|(name, Stretch { shape, bytes, .. })| Tensor { name, shape, bytes }).collect())
}

/// Where each tensor of a safetensors file lies, from the file's bytes. The library checks that the tensors follow each other
/// without a gap to the end of the file, each as long as its shape says.
fn stretches(bytes: &[u8]) -> Result<HashMap<String, Stretch>, SafeTensorError> {
    let (header, metadata) = SafeTensors::read_metadata(bytes)?;
    let data = size_of::<u64>() + header;
    let stretch = |(name, info): (String, &TensorInfo)| {
        let (start, end) = info.data_offsets;
        (name, Stretch { dtype: info.dtype, shape: info.shape.clone(), start: data + start, bytes: end - start })
    };
    Ok(metadata.tensors().into_iter().map(stretch).collect())
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
    fn tensors_lie_where_the_header_says() {
        let found = stretches(&file(GOOD, 16)).unwrap();
        assert_eq!((found["a"].start, found["a"].bytes), (8 + GOOD.len(), 12));
        assert_eq!((found["b"].start, found["b"].shape.as_slice()), (8 + GOOD.len() + 12, &[1][..]));
    }

    #[test]
    fn files_that_lie_about_themselves_are_refused() {
        let cut = file(GOOD, 15);
        let long = file(GOOD, 17);
        let too_short_for_its_shape = file(&GOOD.replace("[2,3]", "[2,4]"), 16);
        let overlapping = file(&GOOD.replace("[12,16]", "[8,12]"), 16);
        let overflowing = file(&GOOD.replace("[2,3]", "[4294967296,4294967296,4294967296]"), 16);
        let backwards = file(&GOOD.replace("[12,16]", "[16,12]"), 16);
        let header_beyond_the_end = [&200_u64.to_le_bytes()[..], b"{}"].concat();
        for bad in [cut, long, too_short_for_its_shape, overlapping, overflowing, backwards, header_beyond_the_end, Vec::new()] {
            assert!(stretches(&bad).is_err());
        }
    }

    #[test]
    fn a_broken_file_is_named_with_a_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, b"version https://git-lfs.github.com/spec/v1").unwrap();
        let error = Source::open(&path).err().unwrap();
        assert_eq!(error::Error::of(&error).kind, error::Kind::Model);
        assert!(error.to_string().contains("model.safetensors") && error.to_string().contains("download it again"), "{error}");
    }

    #[test]
    fn elements_that_are_no_plain_numbers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, file(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4)).unwrap();
        let error = Source::open(&path).unwrap().tensor("a").unwrap_err().to_string();
        assert!(error.contains("tensor a") && error.contains("U8") && error.contains("plain model"), "{error}");
    }

    proptest! {
        /// Whatever bytes come: no panic, and no tensor outside the file.
        #[test]
        fn no_bytes_lead_outside_the_file(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = file(GOOD, 16);
            for (place, byte) in edits {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.truncate(bytes.len() - cut.index(bytes.len()) % 3);
            for stretch in stretches(&bytes).into_iter().flatten().map(|(_, stretch)| stretch) {
                prop_assert!(stretch.start + stretch.bytes <= bytes.len());
            }
        }
    }
}
