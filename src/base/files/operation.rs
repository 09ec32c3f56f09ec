//! The hook that every change of the file system calls. Tests, and builds with the feature `fault-injection`, can make it fail. In other
//! builds it compiles to nothing.

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
#[cfg(not(any(test, feature = "fault-injection")))]
#[inline]
pub(super) fn operation(_: Operation, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(any(test, feature = "fault-injection"))]
pub(super) use faults::operation;
#[cfg(test)]
pub(crate) use faults::with_fault;

/// Fault injection.
///
/// A unit test uses `with_fault` on its own folder. A process reads two environment variables, once:
/// `PYRUST_NN_FAULT=<number>:<errno name>` makes the operation of that number (from 1) fail, such as `3:ENOSPC`;
/// `PYRUST_NN_FAULT_TRACE=<file>` gets a line `<number> <kind> <path>` for each operation. A trace without a fault lists the
/// operations, so a test runs once for the trace and once for each of its lines.
#[cfg(any(test, feature = "fault-injection"))]
mod faults {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::{Operation, Path, io};

    /// The number of the failing operation, from 1, and its errno.
    type InjectedFault = (usize, i32);

    #[derive(Debug)]
    struct FaultPlan {
        /// Only operations in this folder count; the empty path means all.
        folder: PathBuf,
        fault: Option<InjectedFault>,
        passed: Vec<(Operation, PathBuf)>,
        trace: Option<PathBuf>,
    }

    /// Empty if neither faults nor a trace are requested.
    static PLANS: LazyLock<Mutex<Vec<FaultPlan>>> = LazyLock::new(|| Mutex::new(plan_from_env().into_iter().collect()));

    fn plan_from_env() -> Option<FaultPlan> {
        let fault = std::env::var("PYRUST_NN_FAULT").ok().map(|text| {
            parse_fault(&text).unwrap_or_else(|| panic!("PYRUST_NN_FAULT={text} is not <number>:<errno name>, such as 3:ENOSPC"))
        });
        let trace = std::env::var_os("PYRUST_NN_FAULT_TRACE").map(PathBuf::from);
        (fault.is_some() || trace.is_some()).then(|| FaultPlan { folder: PathBuf::new(), fault, passed: Vec::new(), trace })
    }

    fn parse_fault(text: &str) -> Option<InjectedFault> {
        let (number, name) = text.split_once(':')?;
        let code = match name {
            "EACCES" => libc::EACCES,
            "EDQUOT" => libc::EDQUOT,
            "EIO" => libc::EIO,
            "EMFILE" => libc::EMFILE,
            "ENOSPC" => libc::ENOSPC,
            "EROFS" => libc::EROFS,
            _ => return None,
        };
        number.parse().ok().filter(|number| *number > 0).map(|number| (number, code))
    }

    /// Counts an operation, and fails if a fault is planned for it.
    pub(in super::super) fn operation(kind: Operation, path: &Path) -> io::Result<()> {
        let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        for plan in plans.iter_mut().filter(|plan| path.starts_with(&plan.folder)) {
            plan.passed.push((kind, path.to_path_buf()));
            let number = plan.passed.len();
            if let Some(trace) = &plan.trace {
                // A trace that cannot be written must not be mistaken for the injected fault.
                let line = format!("{number} {kind:?} {}\n", path.display());
                let written = OpenOptions::new().create(true).append(true).open(trace).and_then(|mut file| file.write_all(line.as_bytes()));
                written.unwrap_or_else(|cause| panic!("PYRUST_NN_FAULT_TRACE={}: {cause}", trace.display()));
            }
            if let Some((_, code)) = plan.fault.filter(|(fails, _)| *fails == number) {
                return Err(io::Error::from_raw_os_error(code));
            }
        }
        Ok(())
    }

    /// Calls `work` while an operation in `folder` fails, on any thread. Also returns the operations there, in order.
    #[cfg(test)]
    pub(crate) fn with_fault<T>(folder: &Path, fault: Option<InjectedFault>, work: impl FnOnce() -> T) -> (T, Vec<(Operation, PathBuf)>) {
        let plan = FaultPlan { folder: folder.to_path_buf(), fault, passed: Vec::new(), trace: None };
        PLANS.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
        let done = work();
        let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        let at = plans.iter().rposition(|plan| plan.folder == folder);
        (done, at.map(|at| plans.swap_remove(at).passed).unwrap_or_default())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_fault_is_a_number_and_the_name_of_an_error() {
            assert_eq!(parse_fault("3:ENOSPC"), Some((3, libc::ENOSPC)));
            for text in ["", "3", "0:EIO", "x:EIO", "3:EWHAT", "-1:EIO"] {
                assert_eq!(parse_fault(text), None, "{text}");
            }
        }
    }
}
