//! What people look at: the page of a session, and the comparison of sessions.
//!
//! A page is one file. It loads nothing, and has a Content-Security-Policy that allows its own style sheet and its own script alone. Curves are
//! drawn as SVG here, so they are there on paper and without scripts; the script (`curves.js`) draws the same numbers anew for a reader who
//! zooms, smooths or points. A chart library would be larger than all pages together. Templates are minijinja's, and every value in them is
//! escaped and cut to a length at one place (`html.rs`).

mod answers;
mod chart;
mod compare;
mod curve_files;
pub(crate) mod curves;
mod detail;
mod environment;
mod files_made;
mod fragment;
mod graph;
mod histogram;
mod html;
mod lineage;
mod metrics_export;
mod metrics_table;
mod overview;
mod page;
mod pictures;
mod png;
mod proofs;
mod quality;
mod recorded;
mod steps;
mod tensorboard;
mod training_files;

pub(crate) use compare::{ComparedCurve, Comparison, compare};
pub(crate) use curve_files::CurveFiles;
pub(crate) use curves::{Curves, buckets};
pub(crate) use fragment::summary_html;
pub(crate) use html::{SCRIPT, STYLE, Templates, hash_source};
pub(crate) use metrics_export::{MetricsFormat, export_metrics};
pub(crate) use metrics_table::metrics_table;
pub(crate) use page::{Part, live_report, report_page, write_report, write_report_quietly};
pub(crate) use pictures::{PictureFormat, write_pictures};
pub(crate) use quality::{IN_QUALITY, quality};
pub(crate) use recorded::metrics_of;
