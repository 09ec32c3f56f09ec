//! What people look at: the page of a session, and the comparison of sessions.
//!
//! A page is one file. It loads nothing, has no script, and a Content-Security-Policy that allows its own style sheet alone. Curves are
//! drawn as SVG here: a chart library would be a script, and larger than all pages. Templates are minijinja's, and every value in them is
//! escaped and cut to a length at one place (`html.rs`).

mod answers;
mod chart;
mod compare;
mod curves;
mod detail;
mod environment;
mod files_made;
mod fragment;
mod graph;
mod html;
mod lineage;
mod overview;
mod page;
mod pictures;
mod proofs;
mod quality;
mod recorded;
mod steps;

pub(crate) use compare::{ComparedCurve, Comparison, compare};
pub(crate) use curves::Curves;
pub(crate) use fragment::summary_html;
pub(crate) use page::{write_report, write_report_quietly};
pub(crate) use pictures::write_pictures;
pub(crate) use quality::quality;
pub(crate) use recorded::metrics_of;
