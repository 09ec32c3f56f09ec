//! Ctrl-C and SIGTERM while a step runs: noted, so that the step ends with its summary; the host's own handlers come back after it,
//! and get the signal that nobody asked about. While Python runs it has handlers of its own, which raise `KeyboardInterrupt`.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::Result;

use crate::base::error::{Error, Kind};

const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// The signal that came, or 0.
static PENDING: AtomicI32 = AtomicI32::new(0);

/// The handlers as they were; put back when dropped.
pub(crate) struct Handlers {
    kept: [libc::sigaction; 2],
    /// Whether these are the outermost that note signals, behind which nobody asks.
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

    /// Keeps the host's handlers and notes signals from now on. Within another's time, what came before is still to be asked for.
    pub(crate) fn note_signals() -> Handlers {
        let mut kept = Handlers::keep();
        kept.last = kept.kept.iter().any(|old| old.sa_sigaction != note as *const () as libc::sighandler_t);
        if kept.last {
            PENDING.store(0, Ordering::SeqCst);
        }
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
        for (signal, old) in SIGNALS.iter().zip(&self.kept) {
            // SAFETY: `old` is what the system gave for this signal.
            unsafe { libc::sigaction(*signal, old, std::ptr::null_mut()) };
        }
        let pending = if self.last { PENDING.swap(0, Ordering::SeqCst) } else { 0 };
        if pending != 0 {
            // SAFETY: one of ours, to whatever the host does about it.
            unsafe { libc::raise(pending) };
        }
    }
}

extern "C" fn note(signal: i32) {
    PENDING.store(signal, Ordering::SeqCst);
}

/// An error of kind `interrupted` if a signal came; long loops ask now and then.
pub(crate) fn check() -> Result<()> {
    if PENDING.swap(0, Ordering::SeqCst) == 0 { Ok(()) } else { Err(interrupted()) }
}

/// Whether `check` would fail.
pub(crate) fn pending() -> bool {
    PENDING.load(Ordering::SeqCst) != 0
}

/// Stands in the message for the session, which whoever has it puts there.
pub(crate) const SESSION: &str = "SESSION";

pub(crate) fn interrupted() -> anyhow::Error {
    let message = format!("interrupted (Ctrl-C or SIGTERM); finished steps stay, `pyrust-nn resume {SESSION}` goes on with this one");
    Error::new(Kind::Interrupted, message).into()
}
