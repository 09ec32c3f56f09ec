//! SHA-256 of files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::base::signals;

/// SHA-256 of a file, as hexadecimal digits. Ctrl-C ends it.
pub fn sha256(path: &Path) -> Result<String> {
    match sha256_while(path, &|| !signals::pending())? {
        Some(hash) => Ok(hash),
        None => signals::check().map(|()| String::new()),
    }
}

/// SHA-256 of a file; nothing once `wanted` says no.
pub(crate) fn sha256_while(path: &Path, wanted: &dyn Fn() -> bool) -> Result<Option<String>> {
    let hashed = (|| -> std::io::Result<Option<String>> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            if !wanted() {
                return Ok(None);
            }
            match file.read(&mut buffer)? {
                0 => return Ok(Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())),
                n => hasher.update(&buffer[..n]),
            }
        }
    })();
    hashed.with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_the_standard_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-4's example.
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
