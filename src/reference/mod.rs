//! Reference documentation derived from the tasks' definitions: docstrings and signatures, the type stub, the page of tasks.

pub(crate) mod function;
#[cfg(test)]
mod generate;

pub(crate) use function::Function;
