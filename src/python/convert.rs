//! Values between Python and JSON.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use serde_json::{Map, Value};

/// JSON as Python's own objects.
pub(crate) fn to_object(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    Ok(py.import("json")?.call_method1("loads", (value.to_string(),))?.unbind())
}

/// Python's own objects as JSON; paths as text, NumPy's and torch's scalars as what they hold.
pub(crate) fn to_value(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    value_at(object, DEEPEST)
}

/// As deep as `serde_json` reads.
const DEEPEST: usize = 128;

fn value_at(object: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    let depth = depth.checked_sub(1).ok_or_else(|| PyTypeError::new_err("a parameter is nested too deep, or holds itself"))?;
    if object.is_none() {
        Ok(Value::Null)
    } else if object.is_instance_of::<PyBool>() {
        Ok(Value::Bool(object.extract()?))
    } else if object.is_instance_of::<PyInt>() {
        // A number too large for any parameter stays visible as text, and is refused as such.
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
            "a {} cannot be a parameter; give numbers, texts, paths, lists or dicts",
            object.get_type().name()?
        )))
    }
}
