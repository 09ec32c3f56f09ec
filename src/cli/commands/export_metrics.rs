//! `export-metrics`: writes the metrics of a session for other programs.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::read_session::ReadSession;
use crate::report::{MetricsFormat, export_metrics};
use crate::session::runs_dir;

/// Write the metrics of a session for TensorBoard, or as a table
#[derive(Args, Debug)]
pub(crate) struct ExportMetricsArgs {
    #[command(flatten)]
    session: ReadSession,
    /// What to write
    #[arg(long, value_name = "FORMAT")]
    to: ExportedAs,
    /// Only the metrics of this step
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// The file to write, for TensorBoard a folder [default: SESSION.csv, SESSION.parquet or SESSION.tensorboard]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportedAs {
    Tensorboard,
    Csv,
    Parquet,
}

impl ExportMetricsArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let format = match self.to {
            ExportedAs::Tensorboard => MetricsFormat::Tensorboard,
            ExportedAs::Csv => MetricsFormat::Csv,
            ExportedAs::Parquet => MetricsFormat::Parquet,
        };
        let runs = runs_dir(global.runs_dir.as_deref());
        let session = self.session.name(&runs)?;
        let written = export_metrics(&runs, &session, self.step.as_deref(), format, self.out.as_deref())?;
        if global.json {
            output::json(&json!({"session": session, "files": written}));
        } else {
            for path in written {
                output::verbatim(&path.display().to_string());
            }
        }
        Ok(0)
    }
}
