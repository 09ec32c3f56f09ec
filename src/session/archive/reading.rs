//! Opens an archive, which may come from anyone, and reads its manifest. What begins here ends in `import.rs` and `verify.rs`.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Error, Result};
use tar::{Archive, Entry, EntryType};

use super::manifest::{ArchiveManifest, FORMAT, MANIFEST};
use crate::base::error;
use crate::base::similar_path::or_similar;

/// The largest `manifest.json` and `spdx.json`: 64 MiB is enough for some 400,000 files.
const MAX_MANIFEST: u64 = 64 << 20;

/// The content of an archive, unpacked while it is read.
pub(super) type Unpacked = Archive<zstd::Decoder<'static, BufReader<File>>>;

/// What is said of a bad archive: its path, what is wrong, and what that means for the reader.
pub(super) struct Complaint<'a> {
    pub(super) path: &'a Path,
    /// Such as `nothing was imported`.
    pub(super) consequence: &'static str,
}

impl Complaint<'_> {
    pub(super) fn bad(&self, what: impl AsRef<str>) -> Error {
        error::input(format!("{}: {}; {}", self.path.display(), what.as_ref(), self.consequence))
    }

    pub(super) fn damaged(&self, cause: &io::Error) -> Error {
        self.bad(format!("it is no archive of a session, or it is damaged ({cause})"))
    }
}

/// Opens an archive.
///
/// # Errors
/// Kind `io` if it cannot be read, `input` if it is none.
pub(super) fn opened(complaint: &Complaint) -> Result<Unpacked> {
    let path = complaint.path;
    let is_archive = |path: &Path| path.extension().is_some_and(|extension| extension == "zst");
    let file = File::open(path)
        .with_context(|| format!("{} cannot be read; {}", path.display(), or_similar(path, &is_archive, "check the path")))?;
    let decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(1 << 17, file));
    Ok(Archive::new(decoder.map_err(|cause| complaint.damaged(&cause))?))
}

/// The manifest, which is the first file.
///
/// # Errors
/// Kind `input`.
pub(super) fn manifest<R: Read>(first: Option<io::Result<Entry<'_, R>>>, complaint: &Complaint) -> Result<ArchiveManifest> {
    let damaged = |cause: io::Error| complaint.damaged(&cause);
    let mut first = first.ok_or_else(|| complaint.bad("it is empty"))?.map_err(damaged)?;
    let text = small_file(&mut first).map_err(damaged)?;
    let manifest: ArchiveManifest =
        serde_json::from_slice(&text).map_err(|cause| complaint.bad(format!("its first file is no {MANIFEST} of a session ({cause})")))?;
    if manifest.format != FORMAT {
        return Err(complaint.bad(format!(
            "its format is {}, and this version reads {FORMAT}; use the version {} that wrote it",
            manifest.format, manifest.version
        )));
    }
    Ok(manifest)
}

/// The bytes of a file that is small in every archive.
pub(super) fn small_file(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    if entry.header().entry_type() != EntryType::Regular || entry.size() > MAX_MANIFEST {
        return Err(io::Error::other("its first files are not what they should be"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}
