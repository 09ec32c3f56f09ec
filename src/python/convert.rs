//! Converts values between Python and JSON.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use serde_json::{Map, Value};

/// Converts JSON to Python objects.
pub(crate) fn to_object(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    Ok(py.import("json")?.call_method1("loads", (value.to_string(),))?.unbind())
}

/// Converts Python objects to JSON: paths to strings, scalars of NumPy and torch to numbers.
///
/// # Errors
/// `TypeError` for other types and for too deep nesting.
pub(crate) fn to_value(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    value_at(object, MAX_DEPTH)
}

/// The nesting limit of `serde_json`.
const MAX_DEPTH: usize = 128;

fn value_at(object: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    let depth = depth.checked_sub(1).ok_or_else(|| PyTypeError::new_err("a parameter is nested too deeply, or contains itself"))?;
    if object.is_none() {
        Ok(Value::Null)
    } else if object.is_instance_of::<PyBool>() {
        Ok(Value::Bool(object.extract()?))
    } else if object.is_instance_of::<PyInt>() {
        // An integer that is too large becomes a string, so that validation refuses it and shows its value.
        Ok(object.extract::<i64>().map_or_else(|_| Value::String(object.to_string()), Value::from))
    } else if object.is_instance_of::<PyFloat>() {
        let number: f64 = object.extract()?;
        Ok(if number.is_finite() { number.into() } else { number.to_string().into() })
    } else if let Ok(text) = object.cast::<PyString>() {
        Ok(Value::String(text.extract()?))
    } else if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        object.try_iter()?.map(|item| value_at(&item?, depth)).collect()
    } else if let Ok(mapping) = object.cast::<PyMapping>() {
        let mut map = Map::new();
        for pair in mapping.items()?.iter() {
            let (key, value): (String, Bound<'_, PyAny>) = pair.extract()?;
            map.insert(key, value_at(&value, depth)?);
        }
        Ok(Value::Object(map))
    } else if object.hasattr("__fspath__")? {
        Ok(Value::String(object.call_method0("__fspath__")?.extract()?))
    } else if object.hasattr("item")? {
        value_at(&object.call_method0("item")?, depth)
    } else {
        Err(PyTypeError::new_err(format!(
            "a {} cannot be a parameter; give numbers, strings, paths, lists or dicts",
            object.get_type().name()?
        )))
    }
}
