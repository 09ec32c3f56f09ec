//! The lock of a session: one process at a time. It is the operating system's lock on the file `lock`, so it ends with its process. The
//! content of the file only names the owner.

use std::fs::{self, TryLockError};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::base::clock::now;
use crate::base::error;
use crate::base::files::{LockFile, open_own};

/// The owner of a session's lock as `{pid, host, start}`. `None` if it is not locked.
pub fn lock_owner(folder: &Path) -> Option<Value> {
    let mut file = open_own(&folder.join("lock")).ok()?;
    match file.try_lock_shared() {
        Ok(()) => None,
        Err(_) => {
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            Some(serde_json::from_str(&text).unwrap_or(Value::Null))
        }
    }
}

/// Sends a signal to the process that has locked a session.
///
/// # Errors
/// Kind `usage` if nothing of it runs, or not on this machine; `io` if the process may not be asked.
pub(crate) fn signal_owner(folder: &Path, session: &str, signal: i32) -> Result<()> {
    let nothing = || error::usage(format!("no step of session {session} is running, so there is nothing to stop"));
    let owner = lock_owner(folder).ok_or_else(nothing)?;
    let its_host = owner["host"].as_str().unwrap_or("?");
    if its_host != host() {
        return Err(error::usage(format!("session {session} runs on {its_host}; stop it there")));
    }
    let process = owner["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
    let process = process.ok_or_else(|| error::usage(format!("the lock of session {session} names no process; stop it by Ctrl-C")))?;
    // SAFETY: sends a signal; the number is that of a single process.
    if unsafe { libc::kill(process, signal) } != 0 {
        let cause = std::io::Error::last_os_error();
        return Err(error::Error::new(error::Kind::Io, format!("process {process} of session {session} cannot be stopped: {cause}")).into());
    }
    Ok(())
}

/// Locks a session.
///
/// # Errors
/// Kind `busy`, with the owner, if another process holds the lock.
pub(crate) fn lock(folder: &Path, id: &str) -> Result<LockFile> {
    let path = folder.join("lock");
    let mut file = LockFile::open(&path).with_context(|| format!("{} cannot be opened", path.display()))?;
    // `lock_owner` takes the lock for a moment, so retry for a while.
    let until = Instant::now() + Duration::from_millis(300);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::WouldBlock) => {
                let owner = lock_owner(folder).unwrap_or(Value::Null);
                return Err(error::busy(format!(
                    "session {id} is in use by process {} on {} since {}; wait for it, or use another session",
                    owner["pid"],
                    owner["host"].as_str().unwrap_or("?"),
                    owner["start"].as_str().unwrap_or("?")
                )));
            }
            Err(TryLockError::Error(cause)) => return Err(cause).with_context(|| format!("{} cannot be locked", path.display())),
        }
    }
    let owner = json!({"pid": std::process::id(), "host": host(), "start": now()});
    file.set(&owner.to_string()).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(file)
}

/// The host name, or `?`.
pub(crate) fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "?".into(), |name| name.trim().to_string())
}
