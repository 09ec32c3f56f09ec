//! The kernels for tensors, passed as buffers (`tensor.numpy()`).

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::kernels;
use crate::kernels::attention::Attention;
use crate::kernels::{attention as heads, softmax, swiglu as elements};

/// Whether `softmax_pass` supports this number of features on this CPU.
#[pyfunction]
fn softmax_pass_usable(features: usize) -> bool {
    softmax::usable(features)
}

/// Reads `hidden` [rows, features] and `weight` [words, features]; writes `reference` and `total` [rows] and, if given, `sums` [rows,
/// features]. See [`softmax::Softmax`].
#[pyfunction]
#[pyo3(signature = (hidden, weight, threads, reference, total, sums))]
fn softmax_pass(
    py: Python<'_>,
    hidden: PyBuffer<f32>,
    weight: PyBuffer<f32>,
    threads: usize,
    reference: PyBuffer<f32>,
    total: PyBuffer<f32>,
    sums: Option<PyBuffer<f32>>,
) -> PyResult<()> {
    let [rows, features] = *hidden.shape() else { return Err(argument_error()) };
    let [words, same] = *weight.shape() else { return Err(argument_error()) };
    let fits = |buffer: &PyBuffer<f32>, shape: &[usize]| buffer.shape() == shape && buffer.is_c_contiguous();
    let outputs = [(&reference, vec![rows]), (&total, vec![rows])].into_iter().chain(sums.iter().map(|sums| (sums, vec![rows, features])));
    let outputs_fit = outputs.into_iter().all(|(buffer, shape)| fits(buffer, &shape) && !buffer.readonly());
    if same != features
        || !softmax::usable(features)
        || !fits(&hidden, &[rows, features])
        || !fits(&weight, &[words, features])
        || !outputs_fit
    {
        return Err(argument_error());
    }
    let (inputs, matrix) = (values(&hidden), values(&weight));
    let made = py.detach(|| softmax::softmax(inputs, matrix, features, threads, sums.is_some()));
    reference.copy_from_slice(py, &made.reference)?;
    total.copy_from_slice(py, &made.total)?;
    sums.map_or(Ok(()), |sums| sums.copy_from_slice(py, &made.sums))
}

/// Whether this CPU supports `swiglu` and `swiglu_backward`.
#[pyfunction]
fn kernels_usable() -> bool {
    kernels::usable()
}

/// Writes silu(gate) * up to `out`. All are contiguous and have the same length.
#[pyfunction]
fn swiglu(py: Python<'_>, threads: usize, gate: PyBuffer<f32>, up: PyBuffer<f32>, out: PyBuffer<f32>) -> PyResult<()> {
    same_length(&[&gate, &up], &[&out])?;
    let (gate, up, out) = (values(&gate), values(&up), values_mut(&out));
    py.detach(|| elements::forward(gate, up, out, threads));
    Ok(())
}

/// Writes the gradients of gate and up to `gate_grad` and `up_grad`.
#[pyfunction]
fn swiglu_backward(
    py: Python<'_>,
    threads: usize,
    grad: PyBuffer<f32>,
    gate: PyBuffer<f32>,
    up: PyBuffer<f32>,
    gate_grad: PyBuffer<f32>,
    up_grad: PyBuffer<f32>,
) -> PyResult<()> {
    same_length(&[&grad, &gate, &up], &[&gate_grad, &up_grad])?;
    let inputs = [values(&grad), values(&gate), values(&up)];
    let outputs = [values_mut(&gate_grad), values_mut(&up_grad)];
    py.detach(|| elements::backward(inputs, outputs, threads));
    Ok(())
}

/// Whether `attention` supports heads with this number of features on this CPU.
#[pyfunction]
fn attention_usable(features: usize) -> bool {
    heads::usable(features)
}

/// Rows of `lengths` tokens: `query` and `out` are [tokens, heads, features], `key` and `value` [tokens, key heads, features],
/// `divisors` [tokens, heads]. See [`Attention::forward`].
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn attention(
    py: Python<'_>,
    threads: usize,
    lengths: Vec<usize>,
    scale: f32,
    window: usize,
    query: PyBuffer<f32>,
    key: PyBuffer<f32>,
    value: PyBuffer<f32>,
    out: PyBuffer<f32>,
    divisors: PyBuffer<f32>,
) -> PyResult<()> {
    let attention = attention_of(&lengths, scale, window, [&query, &out], [&key, &value], &divisors)?;
    writable(&[&query, &key, &value], &[&out, &divisors])?;
    let inputs = [values(&query), values(&key), values(&value)];
    let (out, divisors) = (values_mut(&out), values_mut(&divisors));
    py.detach(|| attention.forward(inputs, out, divisors, threads));
    Ok(())
}

/// Writes the gradients of query, key and value, from `grad` of `out`. See [`Attention::backward`].
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn attention_backward(
    py: Python<'_>,
    threads: usize,
    lengths: Vec<usize>,
    scale: f32,
    window: usize,
    query: PyBuffer<f32>,
    key: PyBuffer<f32>,
    value: PyBuffer<f32>,
    out: PyBuffer<f32>,
    divisors: PyBuffer<f32>,
    grad: PyBuffer<f32>,
    query_grad: PyBuffer<f32>,
    key_grad: PyBuffer<f32>,
    value_grad: PyBuffer<f32>,
) -> PyResult<()> {
    let like_query = [&query, &out, &grad, &query_grad];
    let attention = attention_of(&lengths, scale, window, like_query, [&key, &value, &key_grad, &value_grad], &divisors)?;
    writable(&[&query, &key, &value, &out, &divisors, &grad], &[&query_grad, &key_grad, &value_grad])?;
    let inputs = [&query, &key, &value, &out, &grad].map(values);
    let outputs = [values_mut(&query_grad), values_mut(&key_grad), values_mut(&value_grad)];
    let divisors = values(&divisors);
    py.detach(|| attention.backward(inputs, divisors, outputs, threads));
    Ok(())
}

fn attention_of<'a, const Q: usize, const K: usize>(
    lengths: &'a [usize],
    scale: f32,
    window: usize,
    queries: [&PyBuffer<f32>; Q],
    keys: [&PyBuffer<f32>; K],
    divisors: &PyBuffer<f32>,
) -> PyResult<Attention<'a>> {
    let &[_, heads, features] = queries[0].shape() else { return Err(argument_error()) };
    let &[_, key_heads, of_keys] = keys[0].shape() else { return Err(argument_error()) };
    let attention = Attention { lengths, heads, key_heads, features, scale, window };
    let shapes =
        queries.iter().all(|buffer| buffer.shape() == queries[0].shape()) && keys.iter().all(|buffer| buffer.shape() == keys[0].shape());
    let fits = of_keys == features && attention.fits(&[queries[0].item_count()], &[keys[0].item_count()]);
    let divisors_fit = divisors.item_count() * features == queries[0].item_count();
    if shapes && fits && divisors_fit { Ok(attention) } else { Err(argument_error()) }
}

fn writable(inputs: &[&PyBuffer<f32>], outputs: &[&PyBuffer<f32>]) -> PyResult<()> {
    let whole = inputs.iter().chain(outputs).all(|buffer| buffer.is_c_contiguous());
    if whole && outputs.iter().all(|buffer| !buffer.readonly()) { Ok(()) } else { Err(argument_error()) }
}

fn same_length(inputs: &[&PyBuffer<f32>], outputs: &[&PyBuffer<f32>]) -> PyResult<()> {
    let length = inputs[0].item_count();
    let all = || inputs.iter().chain(outputs);
    let fits = all().all(|buffer| buffer.item_count() == length);
    if fits && kernels::usable() { writable(inputs, outputs) } else { Err(argument_error()) }
}

fn values(buffer: &PyBuffer<f32>) -> &[f32] {
    // SAFETY: the buffer is contiguous fp32, and its memory lives as long as the borrow. The caller must not write to a tensor during the
    // call, as for every function of torch.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.item_count()) }
}

/// The values of an output buffer. The caller has checked that it is writable.
#[allow(clippy::mut_from_ref)]
fn values_mut(buffer: &PyBuffer<f32>) -> &mut [f32] {
    // SAFETY: as above. An output is a separate tensor, made for this call.
    unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast(), buffer.item_count()) }
}

fn argument_error() -> PyErr {
    PyValueError::new_err("the kernels need contiguous fp32 tensors with matching shapes, writable outputs, and a CPU with AVX-512")
}

/// Adds the functions to the module.
pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(softmax_pass_usable, module)?)?;
    module.add_function(wrap_pyfunction!(softmax_pass, module)?)?;
    module.add_function(wrap_pyfunction!(kernels_usable, module)?)?;
    module.add_function(wrap_pyfunction!(swiglu, module)?)?;
    module.add_function(wrap_pyfunction!(swiglu_backward, module)?)?;
    module.add_function(wrap_pyfunction!(attention_usable, module)?)?;
    module.add_function(wrap_pyfunction!(attention, module)?)?;
    module.add_function(wrap_pyfunction!(attention_backward, module)?)?;
    Ok(())
}
