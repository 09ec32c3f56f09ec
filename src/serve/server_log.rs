//! The log of a server, and the counts of its summary.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use log::Level;
use serde_json::{Map, Value, json};

use crate::base::logging::{SeparateLog, Shown};

pub(crate) struct ServerLog {
    log: SeparateLog,
    /// Whether a console shows each request.
    requests: Shown,
    totals: Mutex<Totals>,
}

/// Counts over all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    /// Answered with an error, by us or by llama.cpp.
    pub(crate) refused: u64,
    /// The client went away before the end.
    pub(crate) cancelled: u64,
    /// llama.cpp ended before the end.
    pub(crate) broken: u64,
    pub(crate) restarts: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
}

impl ServerLog {
    /// Appends to the session's log. `requests`: which consoles show each request.
    pub(crate) fn open(path: &std::path::Path, requests: Shown) -> Result<ServerLog> {
        Ok(ServerLog { log: SeparateLog::open(path)?, requests, totals: Mutex::default() })
    }

    pub(crate) fn emit(&self, level: Level, text: &str) {
        self.log.emit(level, module_path!(), text, Shown::Always);
    }

    /// The line of a request. `probe`: a program asks again and again whether the server is there.
    pub(crate) fn request(&self, text: &str, probe: bool) {
        let (level, shown) = if probe { (Level::Debug, Shown::Verbose) } else { (Level::Info, self.requests) };
        self.log.emit(level, module_path!(), text, shown);
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut Totals)) {
        add(&mut self.totals.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The counts as metrics.
    pub(crate) fn metrics(&self) -> Map<String, Value> {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Totals { requests, refused, cancelled, broken, restarts, prompt_tokens, completion_tokens } = totals;
        let metrics = json!({"requests": requests, "refused": refused, "cancelled": cancelled, "broken": broken, "restarts": restarts,
            "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens});
        metrics.as_object().cloned().unwrap_or_default()
    }
}
