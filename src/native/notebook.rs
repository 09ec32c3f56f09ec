//! The console in a notebook: a progress bar and the answers appear in the cell's output (`notebook.py`), and so do warnings. Other log
//! lines do not.
//!
//! A notebook shows what is written to its own `sys.stderr`. During a step that is redirected to the log, so the object is taken before.

use log::{Level, LevelFilter, Record};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use crate::base::logging::Shown;
use crate::base::progress::{Show, Update};
use crate::base::{logging, progress};

/// Whether Python runs in a notebook's kernel, which shows the streams of `ipykernel`.
pub(crate) fn is_notebook(py: Python<'_>) -> PyResult<bool> {
    let module: String = py.import("sys")?.getattr("stdout")?.get_type().getattr("__module__")?.extract()?;
    Ok(module.starts_with("ipykernel."))
}

/// Shows progress, answers, and records of this level, in the output of the cells.
pub(crate) fn show(py: Python<'_>, level: LevelFilter) -> PyResult<()> {
    let stderr = py.import("sys")?.getattr("stderr")?.unbind();
    let output = py.import("pyrust_nn.notebook")?.getattr("CellOutput")?.call0()?.unbind();
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
        progress::set_show(Some(Box::new(Cells { output })));
    });
    Ok(())
}

struct Cells {
    output: Py<PyAny>,
}

impl Show for Cells {
    fn update(&self, title: &str, update: Update<'_>) {
        self.call(|py, output| output.call_method1(py, "progress", (title, update.done, update.total, update.text)));
    }

    fn status(&self, _text: &str) {}

    fn stream(&self, text: &str) {
        self.call(|py, output| output.call_method1(py, "stream", (text,)));
    }

    fn clear(&self) {}

    fn end(&self) {
        self.call(|py, output| output.call_method0(py, "end"));
    }
}

impl Cells {
    fn call(&self, act: impl Fn(Python<'_>, &Py<PyAny>) -> PyResult<Py<PyAny>>) {
        Python::attach(|py| heard(py, act(py, &self.output)));
    }
}

/// Writes to a stream of Python.
fn write(stream: &Py<PyAny>, text: &str) {
    Python::attach(|py| heard(py, stream.call_method1(py, "write", (text,)).and_then(|_| stream.call_method0(py, "flush"))));
}

/// Ignores that a kernel which is shutting down refused an output: a step does not end because of that. Ctrl-C is heard again where the
/// step can end.
fn heard(py: Python<'_>, written: PyResult<Py<PyAny>>) {
    if written.is_err_and(|error| error.is_instance_of::<PyKeyboardInterrupt>(py)) {
        // SAFETY: only notes that the signal has come.
        unsafe { pyo3::ffi::PyErr_SetInterrupt() };
    }
}
