//! A session's folder, recognised by device and inode: while a step runs, someone may remove the session, or put another in its place, whose
//! files must stay as they are.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::error::{Error, Kind};

#[derive(Clone, Debug)]
pub(crate) struct FolderIdentity {
    folder: PathBuf,
    device: u64,
    inode: u64,
}

impl FolderIdentity {
    pub(crate) fn of(folder: &Path) -> Result<FolderIdentity> {
        let found = std::fs::metadata(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        Ok(FolderIdentity { folder: folder.to_path_buf(), device: found.dev(), inode: found.ino() })
    }

    /// Whether the folder is still the same.
    ///
    /// # Errors
    /// Kind `io`: it was removed or replaced.
    pub(crate) fn check(&self) -> Result<()> {
        let what = match std::fs::metadata(&self.folder) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => return Ok(()),
            Ok(_) => "replaced by another one, whose files were left as they are",
            Err(_) => "removed",
        };
        let message = format!("the session's folder {} was {what} while the step ran; run the step again", self.folder.display());
        Err(Error::new(Kind::Io, message).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_and_a_replaced_folder_are_noticed() {
        let runs = tempfile::tempdir().unwrap();
        let folder = runs.path().join("s");
        std::fs::create_dir(&folder).unwrap();
        let place = FolderIdentity::of(&folder).unwrap();
        place.check().unwrap();
        std::fs::rename(&folder, runs.path().join("other")).unwrap();
        assert!(place.check().unwrap_err().to_string().contains("removed"));
        std::fs::create_dir(&folder).unwrap();
        assert!(place.check().unwrap_err().to_string().contains("replaced"));
    }
}
