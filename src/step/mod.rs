//! One step of a session: how it runs, its folder, its inputs, its checkpoints.

pub(crate) mod checkpoints;
pub(crate) mod devices;
pub(crate) mod family;
pub(crate) mod folder;
pub(crate) mod host;
pub(crate) mod inputs;
pub(crate) mod processes;
pub(crate) mod refusal;
pub(crate) mod removal;
pub(crate) mod request;
pub(crate) mod resolved_inputs;
pub(crate) mod run;
pub(crate) mod suitability;

pub(crate) use request::{Request, StepOutcome};
pub(crate) use run::{RUN_ORIGIN, run_step};
