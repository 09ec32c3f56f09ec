//! The command line: one command for each task, made from its definition, and those that are no tasks. Each command is a type in
//! `commands/`, which clap makes from the arguments and which then runs.

mod args;
mod commands;
mod console;
mod global;
mod output;
mod param_args;
mod process;

pub use console::set_console;
pub(crate) use console::show_by_default;
pub use process::process;
pub(crate) use process::run_command_line;
