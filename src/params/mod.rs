//! The machinery of parameters: what a parameter is, its types, the one check, and what a task is. The tasks themselves are in `tasks/`.

#[macro_use]
mod table;
pub(crate) mod command;
pub(crate) mod interface;
pub(crate) mod kind;
pub(crate) mod lora_defaults;
pub(crate) mod param;
pub(crate) mod prelude;
pub(crate) mod task;
pub(crate) mod validate;
