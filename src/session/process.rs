//! Allows one step at a time in a process.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::base::error;

/// Held while this process runs a step. Two steps would share the interpreter, the log and the streams.
pub(crate) struct ProcessGuard(());

static RUNNING: Mutex<Option<String>> = Mutex::new(None);

impl ProcessGuard {
    /// Whether this process runs a step.
    pub(crate) fn is_held() -> bool {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn begin(session: &str, step: &str) -> Result<ProcessGuard> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = running.as_deref() {
            return Err(error::busy(format!(
                "step {step} of session {session} cannot start: this process is running {other}; wait for it, or use another process"
            )));
        }
        *running = Some(format!("step {step} of session {session}"));
        Ok(ProcessGuard(()))
    }
}

/// What this process is running now, such as `step merge of session s1`.
pub(crate) fn running() -> Option<String> {
    RUNNING.try_lock().ok().and_then(|running| running.clone())
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
