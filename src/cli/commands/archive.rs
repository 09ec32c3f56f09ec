//! `export` and `import`: a session as one file.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::base::signals;
use crate::base::signals::Handlers;
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::text::bytes;
use crate::session::{Exported, export_session, import_session, runs_dir};

/// Write a session into one file, with the hash of every file in it
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Name of the session
    session: String,
    /// The archive [default: <SESSION>.tar.zst]
    file: Option<PathBuf>,
}

/// Read a session from an archive, and check every file in it
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// An archive that `export` wrote
    file: PathBuf,
    /// Name of the session [default: its name when it was exported]
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
}

impl ExportArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<u8> {
        let _signals = Handlers::note_signals();
        let exported = export_session(&runs_dir(global.runs_dir.as_deref()), &self.session, self.file.as_deref(), &signals::check)?;
        if global.json {
            output::json(&json!(exported));
        } else {
            let Exported { path, bytes: size, files, content_bytes, .. } = exported;
            output::line(&format!("{}: {files} files, {}, in {}", path.display(), bytes(content_bytes), bytes(size)));
        }
        Ok(0)
    }
}

impl ImportArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<u8> {
        let _signals = Handlers::note_signals();
        let runs = runs_dir(global.runs_dir.as_deref());
        let session = import_session(&runs, &self.file, self.session.as_deref(), &signals::check)?;
        if global.json {
            output::json(&json!({"session": session, "folder": runs.join(&session)}));
        } else {
            output::line(&format!("session {session} in {}: every file is as it was exported", runs.join(&session).display()));
        }
        Ok(0)
    }
}
