//! The processes of a step: which one this is, if torchrun, srun or rank 0 of this package started several, and what a worker does.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use pyo3::prelude::*;
use serde_json::Value;

use crate::python::exceptions::from_python;
use crate::python::interpreter;

/// Set by `_runtime/launcher.py` for the workers that it starts.
pub(crate) const LAUNCHED: &str = "PYRUST_NN_WORKER";

/// The place of a process among those of its step, and on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessPlace {
    pub rank: u32,
    pub size: u32,
    pub local_rank: u32,
    pub local_size: u32,
}

/// The place that torchrun gave this process by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or srun if the last two are set. `None` if
/// this process is alone.
pub(crate) fn torchrun_place() -> Option<ProcessPlace> {
    place(|name| std::env::var_os(name))
}

fn place(variable: impl Fn(&str) -> Option<OsString>) -> Option<ProcessPlace> {
    let number = |name: &str| variable(name)?.to_str()?.parse::<u32>().ok();
    let first = |names: [&str; 2]| number(names[0]).or_else(|| number(names[1]));
    variable("MASTER_ADDR").filter(|address| !address.is_empty())?;
    number("MASTER_PORT")?;
    let (rank, size) = (first(["RANK", "SLURM_PROCID"])?, first(["WORLD_SIZE", "SLURM_NTASKS"])?);
    let local_rank = first(["LOCAL_RANK", "SLURM_LOCALID"]).unwrap_or(rank);
    let local_size = first(["LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"]).unwrap_or(size);
    (size > 1 && rank < size).then_some(ProcessPlace { rank, size, local_rank, local_size })
}

/// Whether this process was started by rank 0.
pub(crate) fn is_launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

/// Whether this process is a worker: it takes part in rank 0's steps, and runs no command of its own.
pub(crate) fn is_worker() -> bool {
    is_launched() || torchrun_place().is_some_and(|place| place.rank > 0)
}

static COMMAND_LINE: AtomicBool = AtomicBool::new(false);

/// Notes that this is the process of the command line, so that its program can be started again as a worker.
pub(crate) fn is_command_line() {
    COMMAND_LINE.store(true, Ordering::Relaxed);
}

/// The words that start a worker. `None` if this program is not the command line.
pub(crate) fn worker_command() -> Option<Vec<String>> {
    if !COMMAND_LINE.load(Ordering::Relaxed) {
        return None;
    }
    // The link stays valid if the file is replaced meanwhile.
    let link = std::path::Path::new("/proc/self/exe");
    let program = if link.exists() { link.to_path_buf() } else { std::env::current_exe().ok()? };
    Some(std::iter::once(program.to_string_lossy().into_owned()).chain(std::env::args().skip(1)).collect())
}

/// Is a worker until rank 0 has ended, and returns the process's status.
///
/// # Errors
/// Kind `setup` if Python cannot start.
pub(crate) fn work() -> Result<u8> {
    call(|worker| worker.call_method0("work")?.extract())
}

/// Follows rank 0 to the end of its next step, and returns the summary of that.
pub(crate) fn follow_step() -> Result<Value> {
    let text: String = call(|worker| worker.call_method0("follow_step")?.extract())?;
    Ok(serde_json::from_str(&text)?)
}

/// Tells the workers that torchrun started what comes next. See `_runtime/worker.py`.
pub(crate) fn say_to_workers(item: &Value) -> Result<()> {
    call(|worker| worker.call_method1("say_to_workers", (item.to_string(),)).map(drop))
}

fn call<T>(work: impl FnOnce(&Bound<'_, PyModule>) -> PyResult<T>) -> Result<T> {
    interpreter::start()?;
    Python::attach(|py| {
        let result = py.import("pyrust_nn._runtime.worker").and_then(|worker| work(&worker));
        result.map_err(|raised| from_python(py, raised))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(variables: &[(&str, &str)]) -> Option<ProcessPlace> {
        place(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_place_is_that_of_torchrun_or_srun() {
        let address = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")];
        let with = |more: &[(&'static str, &'static str)]| among(&[&address[..], more].concat());
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")];
        assert_eq!(with(&torchrun), Some(ProcessPlace { rank: 3, size: 8, local_rank: 1, local_size: 2 }));
        let srun = [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "1")];
        assert_eq!(with(&srun), Some(ProcessPlace { rank: 1, size: 2, local_rank: 1, local_size: 2 }));
        // A shell in an allocation has no address, one process needs no other, and a rank is one of the size.
        assert_eq!(among(&srun), None);
        assert_eq!(with(&[("RANK", "0"), ("WORLD_SIZE", "1")]), None);
        assert_eq!(with(&[("RANK", "2"), ("WORLD_SIZE", "2")]), None);
        assert_eq!(with(&[("RANK", "one"), ("WORLD_SIZE", "2")]), None);
        assert_eq!(with(&[]), None);
    }
}
