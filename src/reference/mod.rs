//! What callers read about the tasks, made from their definitions: docstrings and signatures, the typed stub, the page of tasks.

pub(crate) mod function;
#[cfg(test)]
mod generate;

pub(crate) use function::Function;
