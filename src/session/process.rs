//! The one step that a process runs at a time.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::base::error;

/// The step that this process runs: never two, for they would share one interpreter, one log and one set of streams.
pub(crate) struct ProcessGuard(());

static RUNNING: Mutex<Option<String>> = Mutex::new(None);

impl ProcessGuard {
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

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
