//! `board`: all sessions in the browser, live. A server on this machine's own address shows the list, each session's report while it grows, its
//! log, and comparisons; with permission it stops and resumes sessions.
//!
//! Pages are rendered here by the templates of `report/`, so they work without a script and escape at one place. The script only replaces the
//! parts that have changed, which one thread finds for all pages together (`live.rs`): what is shown costs the same for one page as for fifty.

mod board_params;
mod board_server;
mod control;
mod list_query;
mod live;
mod pages;
mod routes;
mod session_view;
mod sessions_view;

pub use board_params::BoardParams;
pub(crate) use board_params::{ABOUT, EXAMPLES, NAME};
pub use board_server::{Board, board};
