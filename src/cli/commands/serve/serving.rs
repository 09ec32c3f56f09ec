//! A server that runs, as its `server.json` says.

use std::path::Path;

use serde_json::Value;

use crate::serve::SERVER_FILE;

/// Where a server listens, and for what.
#[derive(Debug)]
pub(super) struct Serving {
    pub url: String,
    pub step: String,
    pub pid: u32,
    pub models: Vec<Value>,
}

/// The server of the session in `folder`; `None` if none runs. Its file is there while it serves.
pub(super) fn serving(folder: &Path) -> Option<Serving> {
    let steps = std::fs::read_dir(folder).ok()?.flatten();
    steps.into_iter().find_map(|step| {
        let text = std::fs::read_to_string(step.path().join(SERVER_FILE)).ok()?;
        let found: Value = serde_json::from_str(&text).ok()?;
        Some(Serving {
            url: found["url"].as_str()?.to_string(),
            step: step.file_name().to_string_lossy().into_owned(),
            pid: u32::try_from(found["pid"].as_u64()?).ok()?,
            models: found["models"].as_array().cloned().unwrap_or_default(),
        })
    })
}
