//! A running board as a Python object.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyTuple};

use crate::board;
use crate::board::Board;
use crate::native::functions::{arguments, python_function};
use crate::params::interface::Interface;
use crate::python::exceptions::to_python;
use crate::reference::Function;

/// What Python runs for `pyrust-nn` in a process of its own.
const COMMAND_LINE: &str = "import sys, pyrust_nn; sys.exit(pyrust_nn.main(sys.argv[1:]))";

/// A running board. In a `with` statement it ends with it.
#[pyclass(frozen, name = "Board", module = "pyrust_nn._core")]
pub(crate) struct PyBoard {
    /// `None` after it has ended.
    board: Mutex<Option<Board>>,
    #[pyo3(get)]
    url: String,
}

#[pymethods]
impl PyBoard {
    /// End it. Open pages say so.
    fn close(&self, py: Python<'_>) {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(board));
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*raised))]
    fn __exit__(&self, py: Python<'_>, raised: &Bound<'_, PyTuple>) {
        let _ = raised;
        self.close(py);
    }
}

/// `board` as a Python function `(*, parameters)`.
pub(crate) fn board_function(py: Python<'_>) -> PyResult<Bound<'_, PyCFunction>> {
    let function = Function::of_board();
    python_function(py, &function, move |py, args, keywords| {
        let given = arguments(board::NAME, &[], args, keywords)?;
        let python: String = py.import("sys")?.getattr("executable")?.extract()?;
        let program = Some(vec![python, "-c".into(), COMMAND_LINE.into()]);
        let started = py.detach(|| Board::start(given, Interface::Python, program)).map_err(to_python)?;
        let url = started.url().to_string();
        Ok(Py::new(py, PyBoard { board: Mutex::new(Some(started)), url })?.into_any())
    })
}
