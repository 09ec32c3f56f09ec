//! Reference documentation derived from the tasks' definitions: docstrings and signatures, the type stub, the page of tasks, the schema of pipeline.toml.

pub(crate) mod function;
#[cfg(test)]
mod generate;
pub(crate) mod schema;

pub(crate) use function::Function;
pub(crate) use schema::{SCHEMA_FILE, pipeline_schema};
