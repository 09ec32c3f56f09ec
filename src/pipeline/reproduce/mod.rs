//! Reproducing a session: its steps run again in another session, and what they made is compared.

mod check;
mod files;
mod plan;
mod values;

pub(crate) use check::check;
pub use check::{ReproducedStep, Reproduction};
pub(crate) use plan::reproduction;
