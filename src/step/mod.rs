//! One step of a session: its story, its folder, what it depends on, its checkpoints.

pub(crate) mod checkpoints;
pub(crate) mod folder;
pub(crate) mod host;
pub(crate) mod inputs;
pub(crate) mod request;
pub(crate) mod run;

pub(crate) use request::{Outcome, Request};
pub(crate) use run::{RUN_ORIGIN, refused, run_step};
