//! `serve`: an HTTP API like OpenAI's for models and adapters. What is not in GGUF is converted first. llama.cpp's own server answers, in a process for each model; this
//! part is in front of it: names, keys, limits, the request log, draining. Bodies and streams pass through unchanged, except that a
//! request to a model with adapters is told which adapter it is for.
//!
//! It is a step of a session with lock, log and summary, but not one of `step/`: it runs beside the process's steps, has no script, and
//! what it made is its answers.

mod access;
mod backend;
mod conversion;
mod engine;
mod forward;
mod gateway;
mod http_server;
mod listening;
mod path;
mod refusal;
mod request_body;
mod request_record;
mod serve_params;
mod served_names;
mod server;
mod server_log;
mod server_step;
mod slots;
mod token_counts;

pub(crate) use listening::{listen, listen_address};
pub use serve_params::ServeParams;
pub(crate) use serve_params::{ABOUT, EXAMPLES, NAME, SERVED_MODELS, all_params};
pub(crate) use server::KEY_VARIABLE;
pub use server::{Server, serve};
pub(crate) use server_step::SERVER_FILE;
