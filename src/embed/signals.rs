//! The host's own handlers of Ctrl-C and SIGTERM, kept aside while Python has its own.

use std::mem::MaybeUninit;

const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// The handlers as they were; put back when dropped.
pub(super) struct Kept([libc::sigaction; 2]);

impl Kept {
    pub(super) fn take() -> Kept {
        Kept(SIGNALS.map(|signal| {
            let mut old = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: a null new action only reads the old one into memory that we own.
            unsafe {
                libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr());
                old.assume_init()
            }
        }))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (signal, old) in SIGNALS.iter().zip(&self.0) {
            // SAFETY: `old` is what the system gave for this signal.
            unsafe { libc::sigaction(*signal, old, std::ptr::null_mut()) };
        }
    }
}
