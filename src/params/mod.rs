//! Parameters: their definition, types and validation, and the definition of a task. The tasks themselves are in `tasks/`.

#[macro_use]
mod table;
#[macro_use]
mod shared_params;
pub(crate) mod command;
pub(crate) mod conflicts;
pub(crate) mod defaults_of_other_tools;
pub(crate) mod group;
pub(crate) mod interface;
pub(crate) mod lora_defaults;
pub(crate) mod names_of_other_tools;
pub(crate) mod param;
pub(crate) mod param_type;
pub(crate) mod prelude;
pub(crate) mod process_count;
pub(crate) mod prompt;
pub(crate) mod similar_value;
pub(crate) mod task;
pub(crate) mod validate;
