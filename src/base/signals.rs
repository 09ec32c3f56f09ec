//! Ctrl-C, SIGTERM and SIGHUP (a closed terminal) while a step runs. Handlers only set a flag, so that the step can end with its summary.
//! Afterwards the host's handlers are restored; a signal that no check has consumed is raised again for them, unless an earlier one has
//! interrupted the step: an impatient second Ctrl-C must not end the process before it says how to resume. A signal that was ignored
//! before (`nohup`, a shell's background job) stays ignored.
//!
//! `Python::initialize` installs no signal handlers, so without these Ctrl-C would end the process before the summary is written. While
//! Python code runs, it has its own handlers, which raise `KeyboardInterrupt` (`_runtime/streams.py`), or first save a checkpoint
//! (`training/stopping.py`).

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::Result;

use crate::base::error::{Error, Kind};

const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The signal that was received, or 0.
static PENDING: AtomicI32 = AtomicI32::new(0);

/// Whether one has interrupted what ran. A later one means the same, so the host does not receive it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The earlier signal handlers. Restored on drop.
pub(crate) struct Handlers {
    kept: [libc::sigaction; SIGNALS.len()],
    /// Whether this is the outermost instance, after which no check follows.
    last: bool,
}

impl Handlers {
    pub(crate) fn keep() -> Handlers {
        let kept = SIGNALS.map(|signal| {
            let mut old = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: a null new action only reads the old one into memory that we own.
            unsafe {
                libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr());
                old.assume_init()
            }
        });
        Handlers { kept, last: false }
    }

    /// Saves the host's handlers and records signals from now on. In a nested call an earlier signal stays pending.
    pub(crate) fn note_signals() -> Handlers {
        let mut kept = Handlers::keep();
        kept.last = kept.kept.iter().all(|old| old.sa_sigaction != note as *const () as libc::sighandler_t);
        if kept.last {
            PENDING.store(0, Ordering::SeqCst);
            INTERRUPTED.store(false, Ordering::SeqCst);
        }
        for (signal, old) in SIGNALS.into_iter().zip(&kept.kept) {
            if old.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            // SAFETY: the action is zeroed except for its handler, which only sets a flag.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = note as *const () as libc::sighandler_t;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
        kept
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, old) in SIGNALS.iter().zip(&self.kept) {
            // SAFETY: `old` was returned by the system for this signal.
            unsafe { libc::sigaction(*signal, old, std::ptr::null_mut()) };
        }
        let pending = if self.last { PENDING.swap(0, Ordering::SeqCst) } else { 0 };
        if pending != 0 && !INTERRUPTED.load(Ordering::SeqCst) {
            // SAFETY: `pending` is one of `SIGNALS`; the host's handler receives it.
            unsafe { libc::raise(pending) };
        }
    }
}

extern "C" fn note(signal: i32) {
    PENDING.store(signal, Ordering::SeqCst);
}

/// Consumes a pending signal. Long loops call this regularly.
///
/// # Errors
/// Kind `interrupted` if a signal was received.
pub(crate) fn check() -> Result<()> {
    match PENDING.swap(0, Ordering::SeqCst) {
        0 => Ok(()),
        signal => Err(interrupted(Some(signal)).into()),
    }
}

/// Whether `check` would fail.
pub(crate) fn pending() -> bool {
    PENDING.load(Ordering::SeqCst) != 0
}

/// An error of kind `interrupted`. `signal`: what interrupted, if it is known. `step/run.rs` adds how the step can be resumed.
pub(crate) fn interrupted(signal: Option<i32>) -> Error {
    INTERRUPTED.store(true, Ordering::SeqCst);
    let by = match signal {
        Some(libc::SIGINT) => " by Ctrl-C",
        Some(libc::SIGTERM) => " by SIGTERM",
        Some(libc::SIGHUP) => " by SIGHUP (the terminal was closed)",
        _ => "",
    };
    Error { signal, ..Error::new(Kind::Interrupted, format!("interrupted{by}")) }
}

/// The number of a signal that a `KeyboardInterrupt` of `_runtime/streams.py` names, such as `SIGTERM`. Python's own has no text, and
/// stands for Ctrl-C.
pub(crate) fn number(name: &str) -> Option<i32> {
    match name {
        "" | "SIGINT" => Some(libc::SIGINT),
        "SIGTERM" => Some(libc::SIGTERM),
        "SIGHUP" => Some(libc::SIGHUP),
        _ => None,
    }
}

/// Makes a file that grows beyond the process's limit (`ulimit -f`) an error like a full disk. By default SIGXFSZ ends the process.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the child process of the test, which signals would disturb in this one.
    const CHILD: &str = "PYRUST_NN_TEST_SIGNALS";

    #[test]
    fn a_second_signal_does_not_end_the_process_before_it_says_what_the_first_one_did() {
        if std::env::var_os(CHILD).is_some() {
            let handlers = Handlers::note_signals();
            // SAFETY: both are handled.
            unsafe { libc::raise(libc::SIGINT) };
            assert_eq!(Error::of(&check().unwrap_err()).signal, Some(libc::SIGINT));
            unsafe { libc::raise(libc::SIGINT) };
            drop(handlers);
            println!("what the first one did");
            let handlers = Handlers::note_signals();
            unsafe { libc::raise(libc::SIGINT) };
            drop(handlers);
            unreachable!("one that interrupted nothing reaches the host");
        }
        let name = std::thread::current().name().unwrap().to_string();
        let child =
            Command::new(std::env::current_exe().unwrap()).args(["--exact", &name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(libc::SIGINT), "{child:?}");
        assert!(String::from_utf8_lossy(&child.stdout).contains("what the first one did"), "{child:?}");
    }
}
