//! The numbers of metrics.jsonl as a table for pandas, polars and pyarrow. They read it by Arrow's C stream interface (the PyCapsule
//! protocol), so none of them is required.

use std::path::PathBuf;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, StringArray};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList};

use crate::base::numbers::counted;
use crate::python::exceptions::to_python;
use crate::report::{metrics_of, metrics_table};
use crate::session::names::runs_dir;

/// The metrics of a session's steps: a row for each logged step, a column for each number.
///
/// `pandas.DataFrame.from_arrow`, `polars.DataFrame` and `pyarrow.table` take it as it is. `to_dicts` needs no package.
#[pyclass(module = "pyrust_nn", frozen)]
pub(crate) struct Metrics {
    table: RecordBatch,
}

#[pymethods]
impl Metrics {
    /// A capsule with an ArrowArrayStream, for other libraries.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(&self, py: Python<'py>, requested_schema: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyCapsule>> {
        // The protocol allows to ignore it: the schema that is given back is what counts.
        drop(requested_schema);
        let reader = RecordBatchIterator::new([Ok(self.table.clone())], self.table.schema());
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(Box::new(reader)), c"arrow_array_stream")
    }

    /// The names of the columns: `name` (of the step in the session), `step`, then the numbers.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.table.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The rows as dicts, without the numbers that a row has not.
    fn to_dicts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows = PyList::empty(py);
        for row in 0..self.table.num_rows() {
            let dict = PyDict::new(py);
            for (field, column) in self.table.schema().fields().iter().zip(self.table.columns()) {
                if column.is_valid(row) {
                    dict.set_item(field.name(), cell(py, column, row)?)?;
                }
            }
            rows.append(dict)?;
        }
        Ok(rows)
    }

    fn __len__(&self) -> usize {
        self.table.num_rows()
    }

    fn __repr__(&self) -> String {
        format!("Metrics({}: {})", counted(self.table.num_rows() as u64, "row"), self.columns().join(", "))
    }
}

fn cell(py: Python<'_>, column: &ArrayRef, row: usize) -> PyResult<Py<PyAny>> {
    let any = column.as_any();
    if let Some(texts) = any.downcast_ref::<StringArray>() {
        texts.value(row).into_py_any(py)
    } else if let Some(numbers) = any.downcast_ref::<Int64Array>() {
        numbers.value(row).into_py_any(py)
    } else {
        any.downcast_ref::<Float64Array>().map(|numbers| numbers.value(row)).into_py_any(py)
    }
}

/// Return the metrics of a session's fine-tunings, or of one step, as a table that pandas, polars and pyarrow read.
#[pyfunction]
#[pyo3(signature = (session, step=None, *, runs_dir=None))]
pub(super) fn metrics(py: Python<'_>, session: &str, step: Option<&str>, runs_dir: Option<PathBuf>) -> PyResult<Metrics> {
    let read = || -> anyhow::Result<Metrics> {
        let steps = metrics_of(&self::runs_dir(runs_dir.as_deref()), session, step)?;
        Ok(Metrics { table: metrics_table(&steps)? })
    };
    py.detach(read).map_err(to_python)
}
