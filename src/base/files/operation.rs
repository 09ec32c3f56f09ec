//! The hook that every change of the file system calls. Unit tests can make it fail; in other builds it compiles to nothing. A whole
//! pipeline's changes, the libraries' too, are made to fail from outside: `tests/faults/`.

use std::io;
use std::path::Path;

/// A change of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    CreateFolder,
    /// Opened for writing, and created if it does not exist.
    Open,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
}

/// Called before each change. A returned error is treated like an error of the operating system.
#[cfg(not(test))]
#[inline]
pub(super) fn operation(_: Operation, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use faults::operation;
#[cfg(test)]
pub(crate) use faults::with_fault;

/// Fault injection: a test runs once for the list of operations in its folder, and once for each of them, which fails.
#[cfg(test)]
mod faults {
    use std::path::PathBuf;
    use std::sync::{Mutex, PoisonError};

    use super::{Operation, Path, io};

    /// The number of the failing operation, from 1, and its errno.
    type InjectedFault = (usize, i32);

    #[derive(Debug)]
    struct FaultPlan {
        /// Only operations in this folder count.
        folder: PathBuf,
        fault: Option<InjectedFault>,
        passed: Vec<(Operation, PathBuf)>,
    }

    static PLANS: Mutex<Vec<FaultPlan>> = Mutex::new(Vec::new());

    /// Counts an operation, and fails if a fault is planned for it.
    pub(in super::super) fn operation(kind: Operation, path: &Path) -> io::Result<()> {
        let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        for plan in plans.iter_mut().filter(|plan| path.starts_with(&plan.folder)) {
            plan.passed.push((kind, path.to_path_buf()));
            let number = plan.passed.len();
            if let Some((_, code)) = plan.fault.filter(|(fails, _)| *fails == number) {
                return Err(io::Error::from_raw_os_error(code));
            }
        }
        Ok(())
    }

    /// Calls `work` while an operation in `folder` fails, on any thread. Also returns the operations there, in order.
    pub(crate) fn with_fault<T>(folder: &Path, fault: Option<InjectedFault>, work: impl FnOnce() -> T) -> (T, Vec<(Operation, PathBuf)>) {
        let plan = FaultPlan { folder: folder.to_path_buf(), fault, passed: Vec::new() };
        PLANS.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
        let done = work();
        let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        let at = plans.iter().rposition(|plan| plan.folder == folder);
        (done, at.map(|at| plans.swap_remove(at).passed).unwrap_or_default())
    }
}
