//! `report`: writes the report of a session, and opens it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::base::error::{Error, Kind};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::read_session::ReadSession;
use crate::report::{PictureFormat, write_pictures, write_report};
use crate::session::runs_dir;

/// Write the report of a session, one HTML file: its steps, curves, files and errors
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    session: ReadSession,
    /// Open it in the browser
    #[arg(long)]
    open: bool,
    /// Also write each picture as an SVG file into this folder: the graph of the steps, the curves, the lengths of rows
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Also write each picture as a PNG file into this folder
    #[arg(long, value_name = "DIR")]
    png: Option<PathBuf>,
}

impl ReportArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let runs = runs_dir(global.runs_dir.as_deref());
        let session = self.session.name(&runs)?;
        let path = write_report(&runs, &session)?;
        let mut pictures = Vec::new();
        for (folder, format) in [(&self.svg, PictureFormat::Svg), (&self.png, PictureFormat::Png)] {
            if let Some(folder) = folder {
                pictures.extend(write_pictures(&runs, &session, folder, format)?);
            }
        }
        if global.json {
            output::json(&json!({"session": session, "report": path, "pictures": pictures}));
        } else {
            [path.clone()].iter().chain(&pictures).for_each(|path| output::verbatim(&path.display().to_string()));
        }
        if self.open {
            let path = std::fs::canonicalize(&path)?;
            let fix = |_| Error::new(Kind::Setup, format!("no program opens {}; open it in a browser yourself", path.display()));
            open::that_detached(&path).map_err(fix)?;
        }
        Ok(0)
    }
}
