//! Python functions for GGUF files: their types, their writing, and the encoding and decoding of tensors.

use std::path::PathBuf;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::error;
use crate::gguf::{self, Form, Format, ImportanceMatrix, Rows};
use crate::native::tensors::values;
use crate::python::convert::to_object;
use crate::python::exceptions::to_python;

/// The tensor types of GGUF files, as dicts.
#[pyfunction]
fn gguf_types(py: Python<'_>) -> PyResult<Py<PyAny>> {
    to_object(py, &serde_json::to_value(gguf::tensor_types()).map_err(|error| to_python(error.into()))?)
}

/// The types of GGUF files, as dicts.
#[pyfunction]
fn gguf_file_types(py: Python<'_>) -> PyResult<Py<PyAny>> {
    to_object(py, &serde_json::to_value(gguf::FILE_TYPES).map_err(|error| to_python(error.into()))?)
}

#[pyfunction]
fn write_gguf(py: Python<'_>, plan_path: PathBuf, progress: Py<PyAny>) -> PyResult<u64> {
    let mut on_progress = |done: u64, total: u64, name: &str| {
        Python::attach(|py| {
            py.check_signals()?;
            progress.call1(py, (done, total, name)).map(drop)
        })
        .map_err(anyhow::Error::from)
    };
    py.detach(|| gguf::write(&plan_path, &mut on_progress)).map_err(to_python)
}

/// The bytes of a matrix of float32 numbers, given as a C-contiguous buffer [rows, columns], in a tensor type. `importance`: a
/// number for each column. `form` (plain, avx2, avx512) chooses the vectors; the bytes are the same.
#[pyfunction]
#[pyo3(signature = (tensor_type, numbers, importance = None, form = None))]
fn gguf_encode<'py>(
    py: Python<'py>,
    tensor_type: &str,
    numbers: PyBuffer<f32>,
    importance: Option<PyBuffer<f32>>,
    form: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let wrong = |what: String| to_python(error::usage(what));
    let format = Format::try_from(tensor_type.to_string()).map_err(wrong)?;
    let columns = numbers.shape().last().copied().unwrap_or(0);
    let row_bytes = format.bytes(columns).filter(|bytes| *bytes > 0);
    let row_bytes = row_bytes.ok_or_else(|| wrong(format!("rows of {columns} elements cannot be stored as {tensor_type}")))?;
    let form = match form {
        None => Form::fastest(),
        Some(name) => {
            let found = Form::available().into_iter().find(|form| format!("{form:?}").eq_ignore_ascii_case(name));
            found.ok_or_else(|| wrong(format!("this processor does not support the form {name}")))?
        }
    };
    if !numbers.is_c_contiguous() || importance.as_ref().is_some_and(|importance| !importance.is_c_contiguous()) {
        return Err(wrong("the numbers and their importance must be contiguous".into()));
    }
    if importance.as_ref().is_some_and(|importance| importance.item_count() != columns) {
        return Err(wrong(format!("the importance has not {columns} numbers, one for each column")));
    }
    let (numbers, importance) = (values(&numbers), importance.as_ref().map(values));
    let mut bytes = vec![0; numbers.len() / columns * row_bytes];
    py.detach(|| {
        let rows = Rows { numbers, columns, importance };
        gguf::encode_rows(format, rows, form, &mut bytes);
    });
    Ok(PyBytes::new(py, &bytes))
}

/// A tensor's bytes as float32 numbers in native byte order.
#[pyfunction]
fn gguf_decode<'py>(py: Python<'py>, tensor_type: &str, data: PyBuffer<u8>) -> PyResult<Bound<'py, PyBytes>> {
    let wrong = |what: String| to_python(error::usage(what));
    let format = Format::try_from(tensor_type.to_string()).map_err(wrong)?;
    let (block, block_bytes) = format.block();
    let data = data.to_vec(py)?;
    if !data.len().is_multiple_of(block_bytes) {
        return Err(wrong(format!("{} bytes are not a multiple of the {block_bytes} of a block of {tensor_type}", data.len())));
    }
    let numbers = py.detach(|| {
        let mut numbers = vec![0.0; data.len() / block_bytes * block];
        gguf::decode(format, &data, &mut numbers);
        numbers.iter().flat_map(|number: &f32| number.to_ne_bytes()).collect::<Vec<u8>>()
    });
    Ok(PyBytes::new(py, &numbers))
}

/// The header of a GGUF file: `{"keys": {…}, "tensors": [{"name", "shape", "type", "offset", "bytes"}, …]}`, with shapes outermost
/// dimension first. Keys with arrays are left out unless `arrays`.
#[pyfunction]
#[pyo3(signature = (path, arrays = true))]
fn gguf_header(py: Python<'_>, path: PathBuf, arrays: bool) -> PyResult<Py<PyAny>> {
    to_object(py, &py.detach(|| gguf::describe(&path, arrays)).map_err(to_python)?)
}

/// The content of an importance matrix: `{"entries": {name: columns}, "datasets": […], "chunks": …}`.
#[pyfunction]
fn imatrix_header(py: Python<'_>, path: PathBuf) -> PyResult<Py<PyAny>> {
    let matrix = py.detach(|| ImportanceMatrix::read(&path)).map_err(to_python)?;
    to_object(py, &matrix.describe())
}

/// Adds the functions to the module.
pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(gguf_types, module)?)?;
    module.add_function(wrap_pyfunction!(gguf_file_types, module)?)?;
    module.add_function(wrap_pyfunction!(write_gguf, module)?)?;
    module.add_function(wrap_pyfunction!(gguf_header, module)?)?;
    module.add_function(wrap_pyfunction!(imatrix_header, module)?)?;
    module.add_function(wrap_pyfunction!(gguf_encode, module)?)?;
    module.add_function(wrap_pyfunction!(gguf_decode, module)?)
}
