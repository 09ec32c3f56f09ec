//! The one point that every change of the file system passes, where a fault can be injected: in tests, and in a build with the
//! feature `fault-injection`. Without them nothing is left of it.

use std::io;
use std::path::Path;

/// What is about to be done to a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    CreateFolder,
    /// Opened for writing, and made where it does not exist.
    Open,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
}

/// Called before each change. An error that it returns stands for one of the system's.
#[cfg(not(any(test, feature = "fault-injection")))]
#[inline]
pub(super) fn operation(_: Operation, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(any(test, feature = "fault-injection"))]
pub(super) use faults::operation;
#[cfg(test)]
pub(crate) use faults::with_fault;

/// Faults injected.
///
/// A unit test uses `with_fault` on a folder of its own. A whole process reads two variables, once:
/// `PYRUST_NN_FAULT=<number>:<errno name>` lets the operation of that number (from 1) fail, such as `3:ENOSPC`;
/// `PYRUST_NN_FAULT_TRACE=<file>` gets a line `<number> <kind> <path>` for each operation. A trace without a fault enumerates the
/// places, so a test runs once for the trace and once for each of its lines.
#[cfg(any(test, feature = "fault-injection"))]
mod faults {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::{Operation, Path, io};

    /// The operation that fails, counted from 1, and with which error number.
    type Fault = (usize, i32);

    #[derive(Debug)]
    struct Plan {
        /// Only what happens in here counts; the empty path is everything.
        folder: PathBuf,
        fault: Option<Fault>,
        passed: Vec<(Operation, PathBuf)>,
        trace: Option<PathBuf>,
    }

    /// Empty as long as nobody asks for faults or a trace.
    static PLANS: LazyLock<Mutex<Vec<Plan>>> = LazyLock::new(|| Mutex::new(of_process().into_iter().collect()));

    fn of_process() -> Option<Plan> {
        let fault = std::env::var("PYRUST_NN_FAULT")
            .ok()
            .map(|text| read(&text).unwrap_or_else(|| panic!("PYRUST_NN_FAULT={text} is not <number>:<errno name>, such as 3:ENOSPC")));
        let trace = std::env::var_os("PYRUST_NN_FAULT_TRACE").map(PathBuf::from);
        (fault.is_some() || trace.is_some()).then(|| Plan { folder: PathBuf::new(), fault, passed: Vec::new(), trace })
    }

    fn read(text: &str) -> Option<Fault> {
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

    /// Counts an operation and lets it fail where that was asked for.
    pub(in super::super) fn operation(kind: Operation, path: &Path) -> io::Result<()> {
        let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        for plan in plans.iter_mut().filter(|plan| path.starts_with(&plan.folder)) {
            plan.passed.push((kind, path.to_path_buf()));
            let number = plan.passed.len();
            if let Some(trace) = &plan.trace {
                // A trace that cannot be written must not look like the fault.
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

    /// Does some work while an operation within `folder` fails, whichever thread does it; also gives the operations there, in order.
    #[cfg(test)]
    pub(crate) fn with_fault<T>(folder: &Path, fault: Option<Fault>, work: impl FnOnce() -> T) -> (T, Vec<(Operation, PathBuf)>) {
        let plan = Plan { folder: folder.to_path_buf(), fault, passed: Vec::new(), trace: None };
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
            assert_eq!(read("3:ENOSPC"), Some((3, libc::ENOSPC)));
            for text in ["", "3", "0:EIO", "x:EIO", "3:EWHAT", "-1:EIO"] {
                assert_eq!(read(text), None, "{text}");
            }
        }
    }
}
