//! The pictures of a session, for a paper: its steps as a graph, its curves, the lengths of its rows. Each has its own style, dark on light.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::base::files;
use crate::report::chart::{ChartForm, ChartLine, chart};
use crate::report::curves::Curve;
use crate::report::detail::DETAILS;
use crate::report::graph::graph_with_names;
use crate::report::histogram::{HEIGHT, WIDTH, histogram};
use crate::report::html::{cut, escape};
use crate::report::png::png;
use crate::report::recorded::{RecordedSession, RecordedStep};
use crate::report::steps::{class, sources};

const FORM: ChartForm = ChartForm { width: 640.0, height: 320.0, columns: 600, hover: 0, log: false, bytes: false };
const STYLE: &str = "<style>text{font:12px sans-serif;fill:#333}.y{text-anchor:end}.x{text-anchor:middle}.grid{stroke:#ddd}.axis{fill:none;stroke:#333}\
    .line{fill:none;stroke-width:1.8}.band{fill-opacity:.22;stroke-opacity:.35}.mark{stroke:#7a5200;stroke-dasharray:4 3}\
    .line.s0{stroke:#1f66b5}.line.s1{stroke:#c2570c;stroke-dasharray:7 4}.band.s0,.dot.s0,.bar-of{fill:#1f66b5}.band.s1,.dot.s1{fill:#c2570c}.band.s0{stroke:#1f66b5}.band.s1{stroke:#c2570c}\
    .edge{fill:none;stroke:#565e69;stroke-width:2}.node,.hole{fill:none;stroke:#565e69;stroke-width:15;stroke-linecap:round}\
    .hole{stroke:#fff;stroke-width:9}.node.success{stroke:#0b5d2a}.node.failure{stroke:#a1201a}.node.running{stroke:#0b4f8a}.node.interrupted{stroke:#7a5200}</style>";
/// Room above a drawing for its legend.
const ABOVE: f64 = 26.0;
/// Columns of a name in a legend, and the width of one on average.
const NAME: usize = 60;
const COLUMN: f64 = 6.6;

/// A format of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PictureFormat {
    Svg,
    Png,
}

impl PictureFormat {
    fn extension(self) -> &'static str {
        match self {
            PictureFormat::Svg => "svg",
            PictureFormat::Png => "png",
        }
    }
}

/// Writes into `folder` the file `steps.svg` and for each step `<step>.<name>.svg`: a curve, the evaluation loss with the loss, or the lengths of
/// its rows. Returns their paths.
///
/// # Errors
/// Kind `usage` if there is no such session; `input` if a name in a PNG file has characters that the font lacks, before anything is written; `io`
/// if a file cannot be written.
pub(crate) fn write_pictures(runs: &Path, session: &str, folder: &Path, format: PictureFormat) -> Result<Vec<PathBuf>> {
    let recorded = RecordedSession::read(runs, session)?;
    let made: Vec<(String, Vec<u8>)> = pictures(&recorded)
        .into_iter()
        .map(|(name, svg)| {
            let bytes = match format {
                PictureFormat::Svg => svg.into_bytes(),
                PictureFormat::Png => png(&svg, &name)?,
            };
            Ok((name, bytes))
        })
        .collect::<Result<_>>()?;
    files::create_folders(folder)?;
    let mut written = Vec::new();
    for (name, bytes) in made {
        let path = folder.join(format!("{name}.{}", format.extension()));
        files::write_whole(&path, &bytes)?;
        written.push(path);
    }
    Ok(written)
}

/// Each picture with its name, as SVG.
fn pictures(session: &RecordedSession) -> Vec<(String, String)> {
    let mut made = Vec::new();
    if !session.steps.is_empty() {
        let steps = &session.steps[session.steps.len().saturating_sub(DETAILS[0].steps)..];
        let states: Vec<&str> = steps.iter().map(|step| class(&step.state.state)).collect();
        let names: Vec<String> = steps.iter().map(|step| format!("{}: {}", cut(step.name(), NAME), cut(&step.state.state, NAME))).collect();
        made.push(("steps".to_string(), styled(&graph_with_names(&sources(session, steps), &states, &names))));
    }
    for step in &session.steps {
        let of_step = |name: &str| format!("{}.{}", plain(&step.state.step), plain(name));
        made.extend(curves(step).map(|(name, svg)| (of_step(name), svg)));
        let lengths = step.data_report.as_ref().and_then(|report| histogram(&report["lengths"]["histogram"]));
        let title = format!("<text x=\"0\" y=\"{}\">rows by their length in tokens</text>", 16.0 - ABOVE);
        made.extend(lengths.map(|svg| (of_step("row_lengths"), styled(&with_room(&svg, WIDTH, HEIGHT, &title)))));
    }
    made
}

fn curves(step: &RecordedStep) -> impl Iterator<Item = (&str, String)> {
    let alone = |curve: &&Curve| curve.name != "eval_loss" || step.curves.named("loss").is_none();
    step.curves.drawn().filter(alone).map(|curve| {
        let more = step.curves.named("eval_loss").filter(|_| curve.name == "loss");
        let lines: Vec<ChartLine> = std::iter::once(curve).chain(more).map(line).collect();
        let form = ChartForm { bytes: curve.name.ends_with("_bytes"), ..FORM };
        let svg = chart(&curve.name, &lines, &step.curves.resumed_at, form);
        (curve.name.as_str(), styled(&with_legend(&svg, &lines)))
    })
}

fn line(curve: &Curve) -> ChartLine<'_> {
    ChartLine { name: &curve.name, points: &curve.points }
}

/// The drawing with the names of its lines above it: a picture in a paper stands alone.
fn with_legend(svg: &str, lines: &[ChartLine]) -> String {
    let mut legend = String::new();
    let mut x = 62.0;
    for (number, line) in lines.iter().enumerate() {
        let name = cut(line.name, NAME);
        legend.push_str(&format!(
            "<path class=\"line s{number}\" d=\"M{x} {0}h26\"/><text x=\"{1}\" y=\"{2}\">",
            -ABOVE + 12.0,
            x + 33.0,
            -ABOVE + 16.0
        ));
        legend.push_str(&format!("{}</text>", escape(&name)));
        x += 60.0 + COLUMN * name.chars().count() as f64;
    }
    with_room(svg, FORM.width, FORM.height, &legend)
}

/// The drawing of this size with more above it.
fn with_room(svg: &str, width: f64, height: f64, more: &str) -> String {
    let whole = format!("viewBox=\"0 0 {width} {height}\"");
    let room = format!("viewBox=\"0 {} {width} {}\"", -ABOVE, height + ABOVE);
    svg.replacen(&whole, &room, 1).replacen("</svg>", &format!("{more}</svg>"), 1)
}

/// A drawing of a page as a file of its own.
fn styled(svg: &str) -> String {
    svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1).replacen('>', &format!(">{STYLE}"), 1)
}

/// A part of a file's name. A script may call its numbers anything.
fn plain(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' }).collect()
}
