//! The command line: one command for each task, built from its definition, and the other commands. Each command is a type in
//! `commands/` that clap parses from the arguments and that has a `run` method.

mod args;
mod bar;
mod commands;
mod console;
mod display;
mod examples;
mod global;
mod other_tools;
mod output;
mod param_args;
mod process;
mod read_session;
mod results;
mod table;
mod text;
mod unknown_arguments;
mod word_wrap;
mod wrap;

pub(crate) use console::first_use;
pub use console::{capture_output, set_console};
pub use process::process;
pub(crate) use process::run_command_line;
