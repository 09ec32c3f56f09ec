//! Files that only this program writes, such as a session's log and record. A folder of sessions may come from someone else, or be
//! open to others, so their place may hold something else: a symbolic link to another file, a device without an end, a pipe that nobody
//! writes to. All of these are refused.
//!
//! Sessions are private: folders have mode 0700 and files 0600, unless PYRUST_NN_SHARED is 1.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::operation::{Operation, operation};

/// Opens a file of ours for reading.
///
/// # Errors
/// As `File::open`, and for what is not a regular file.
pub fn open_own(path: &Path) -> io::Result<File> {
    opened(OpenOptions::new().read(true), path)
}

/// The content of a file of ours.
pub fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_own(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file of ours with `options`. New files are private.
pub(super) fn opened(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // NONBLOCK: opening a pipe would wait for its other end.
    let file = match options.mode(file_mode()).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(refused("a symbolic link")),
        other => other?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused("not a regular file")) }
}

fn refused(what: &str) -> io::Error {
    io::Error::other(format!("it is {what}, and this program wrote none there; move it away"))
}

/// Whether others may read what is written: PYRUST_NN_SHARED is 1.
fn is_shared() -> bool {
    std::env::var_os("PYRUST_NN_SHARED").is_some_and(|value| value == "1")
}

pub(super) fn file_mode() -> u32 {
    if is_shared() { 0o666 } else { 0o600 }
}

pub(super) fn folder_mode() -> u32 {
    if is_shared() { 0o777 } else { 0o700 }
}

/// Makes a folder and everything in it private, unless sessions are shared. Libraries write files that everyone may read.
pub fn make_private(path: &Path) -> io::Result<()> {
    if is_shared() {
        return Ok(());
    }
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    operation(Operation::Open, path)?;
    fs::set_permissions(path, Permissions::from_mode(if kind.is_dir() { 0o700 } else { 0o600 }))?;
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            make_private(&entry?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_file_of_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("session.json");
        fs::write(folder.path().join("other"), "x").unwrap();
        for target in ["/dev/zero", "other", "nowhere"] {
            symlink(target, &place).unwrap();
            let error = read_own(&place).unwrap_err();
            assert!(error.to_string().contains("symbolic link"), "{target}: {error}");
            fs::remove_file(&place).unwrap();
        }
        let name = std::ffi::CString::new(place.to_str().unwrap()).unwrap();
        // SAFETY: `name` is a valid C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(read_own(&place).unwrap_err().to_string().contains("not a regular file"));
    }
}
