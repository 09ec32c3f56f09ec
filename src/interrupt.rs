//! Ctrl-C and SIGTERM while a step runs: noted, so that the step ends with its summary; the host's own handlers come back after it.
//! While Python runs it has handlers of its own, which raise `KeyboardInterrupt`.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use crate::error::{Error, Kind};

const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

static PENDING: AtomicBool = AtomicBool::new(false);

/// The handlers as they were; put back when dropped.
pub(crate) struct Handlers([libc::sigaction; 2]);

impl Handlers {
    pub(crate) fn keep() -> Handlers {
        Handlers(SIGNALS.map(|signal| {
            let mut old = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: a null new action only reads the old one into memory that we own.
            unsafe {
                libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr());
                old.assume_init()
            }
        }))
    }

    /// Keeps the host's handlers and notes signals from now on.
    pub(crate) fn note_signals() -> Handlers {
        let kept = Handlers::keep();
        PENDING.store(false, Ordering::SeqCst);
        for signal in SIGNALS {
            // SAFETY: the action is zeroed but for its handler, which does nothing but set a flag.
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
        for (signal, old) in SIGNALS.iter().zip(&self.0) {
            // SAFETY: `old` is what the system gave for this signal.
            unsafe { libc::sigaction(*signal, old, std::ptr::null_mut()) };
        }
    }
}

extern "C" fn note(_signal: i32) {
    PENDING.store(true, Ordering::SeqCst);
}

/// An error of kind `interrupted` if a signal came; long loops ask now and then.
pub(crate) fn check() -> Result<()> {
    if PENDING.swap(false, Ordering::SeqCst) { Err(interrupted()) } else { Ok(()) }
}

pub(crate) fn interrupted() -> anyhow::Error {
    Error::new(Kind::Interrupted, "interrupted (Ctrl-C or SIGTERM); finished steps stay, `pyrust-nn resume` goes on with this one").into()
}
