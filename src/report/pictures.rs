//! The curves of a session as SVG files, for a paper: each with its own style, in dark on light.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::base::files;
use crate::report::chart::{ChartForm, ChartLine, chart};
use crate::report::curves::Curve;
use crate::report::recorded::RecordedSession;

const FORM: ChartForm = ChartForm { width: 640.0, height: 320.0, columns: 600, hover: 0, log: false, bytes: false };
const STYLE: &str = "<style>text{font:12px sans-serif;fill:#333}.y{text-anchor:end}.x{text-anchor:middle}.grid{stroke:#ddd}.axis{fill:none;stroke:#333}\
    .line{fill:none;stroke:currentColor;stroke-width:1.8}.band,.dot{fill:currentColor}.band{fill-opacity:.22}.mark{stroke:#7a5200;stroke-dasharray:4 3}\
    .s0{color:#1f66b5}.s1{color:#c2570c}.line.s1{stroke-dasharray:7 4}</style>";

/// Writes a file `<step>.<name>.svg` for each curve into `folder`, the evaluation loss with the loss. Returns their paths.
///
/// # Errors
/// Kind `usage` if there is no such session, `io` if a file cannot be written.
pub(crate) fn write_pictures(runs: &Path, session: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let recorded = RecordedSession::read(runs, session)?;
    files::create_folders(folder)?;
    let mut written = Vec::new();
    for step in &recorded.steps {
        for curve in step.curves.drawn().filter(|curve| curve.name != "eval_loss" || step.curves.named("loss").is_none()) {
            let more = step.curves.named("eval_loss").filter(|_| curve.name == "loss");
            let lines: Vec<ChartLine> = std::iter::once(curve).chain(more).map(line).collect();
            let form = ChartForm { bytes: curve.name.ends_with("_bytes"), ..FORM };
            let svg = chart(&curve.name, &lines, &step.curves.resumed_at, form);
            let svg = svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1).replacen('>', &format!(">{STYLE}"), 1);
            let path = folder.join(format!("{}.{}.svg", plain(&step.state.step), plain(&curve.name)));
            files::write_whole(&path, svg.as_bytes())?;
            written.push(path);
        }
    }
    Ok(written)
}

fn line(curve: &Curve) -> ChartLine<'_> {
    ChartLine { name: &curve.name, points: &curve.points }
}

/// A part of a file's name. A script may call its numbers anything.
fn plain(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' }).collect()
}
