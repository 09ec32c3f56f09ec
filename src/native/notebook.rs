//! The console in a notebook: answers appear in the cell's output while they are generated, and so do warnings. Other log lines do not.
//!
//! A notebook shows what is written to its own `sys.stdout` and `sys.stderr`. During a step those are redirected to the log, so the
//! objects are taken before.

use log::{Level, LevelFilter, Record};
use pyo3::prelude::*;

use crate::base::logging::Shown;
use crate::base::progress::{Show, Update};
use crate::base::{logging, progress};

/// Whether Python runs in a notebook's kernel, which shows the streams of `ipykernel`.
pub(crate) fn is_notebook(py: Python<'_>) -> PyResult<bool> {
    let module: String = py.import("sys")?.getattr("stdout")?.get_type().getattr("__module__")?.extract()?;
    Ok(module.starts_with("ipykernel."))
}

/// Shows answers, and records of this level, in the output of the cells.
pub(crate) fn show(py: Python<'_>, level: LevelFilter) -> PyResult<()> {
    let sys = py.import("sys")?;
    let (stdout, stderr) = (sys.getattr("stdout")?.unbind(), sys.getattr("stderr")?.unbind());
    // Without the GIL: a thread that logs holds the console and may wait for the GIL.
    py.detach(|| {
        logging::set_console(Some(Box::new(move |record: &Record, shown: Shown| {
            // The exception shows the failure.
            let failure = record.level() == Level::Error && record.target() == crate::step::RUN_ORIGIN;
            if record.level() <= level && shown == Shown::Always && !failure {
                let word = if record.level() <= Level::Warn { "warning: " } else { "" };
                write(&stderr, &format!("{word}{}\n", record.args()));
            }
        })));
        progress::set_show(Some(Box::new(Cells { stdout })));
    });
    Ok(())
}

struct Cells {
    stdout: Py<PyAny>,
}

impl Show for Cells {
    fn update(&self, _title: &str, _update: Update<'_>) {}

    fn status(&self, _text: &str) {}

    fn stream(&self, text: &str) {
        write(&self.stdout, text);
    }

    fn clear(&self) {}
}

/// Writes to a stream of Python. A kernel that is shutting down may refuse; a step does not end because of that.
fn write(stream: &Py<PyAny>, text: &str) {
    Python::attach(|py| {
        let written = stream.call_method1(py, "write", (text,)).and_then(|_| stream.call_method0(py, "flush"));
        drop(written);
    });
}
