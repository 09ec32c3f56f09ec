//! `manifest.json` of an archive.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

/// The only format so far.
pub(super) const FORMAT: u32 = 1;
/// The names of the two files that are not the session's own.
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const SPDX: &str = "spdx.json";
/// The key of session.json that says where an imported session comes from.
pub(super) const IMPORTED: &str = "imported";

/// What an archive holds, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ArchiveManifest {
    pub format: u32,
    pub session: String,
    /// Of the program that wrote it.
    pub version: String,
    /// The commit of its source, if it was built from a checkout.
    pub commit: Option<String>,
    pub exported_at: String,
    pub host: String,
    /// All other files except `spdx.json`, sorted by path.
    pub files: Vec<ManifestFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManifestFile {
    /// Relative to the session's folder, with `/`.
    pub path: String,
    pub bytes: u64,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

impl ManifestFile {
    /// Whether the path stays in the folder.
    pub(super) fn is_inside(&self) -> bool {
        !self.path.is_empty() && Path::new(&self.path).components().all(|part| matches!(part, Component::Normal(_)))
    }
}
