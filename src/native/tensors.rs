//! Python functions for the kernels. Tensors are passed as fp32 buffers (`tensor.numpy()`).

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

/// Reads `hidden` [rows, features], `weight` [vocabulary, features] and `targets`, one token for each row. Writes `reference`, `total` and
/// `target_logit` [rows] and, if given, `sums` [rows, features]. See [`softmax::Softmax`].
#[pyfunction]
#[pyo3(signature = (hidden, weight, targets, threads, reference, total, target_logit, sums))]
#[allow(clippy::too_many_arguments)]
fn softmax_pass(
    py: Python<'_>,
    hidden: PyBuffer<f32>,
    weight: PyBuffer<f32>,
    targets: Vec<usize>,
    threads: usize,
    reference: PyBuffer<f32>,
    total: PyBuffer<f32>,
    target_logit: PyBuffer<f32>,
    sums: Option<PyBuffer<f32>>,
) -> PyResult<()> {
    let [rows, features] = *hidden.shape() else { return Err(argument_error()) };
    let [vocabulary, weight_features] = *weight.shape() else { return Err(argument_error()) };
    let fits = |buffer: &PyBuffer<f32>, shape: &[usize]| buffer.shape() == shape && buffer.is_c_contiguous();
    let of_rows = [&reference, &total, &target_logit];
    let outputs = of_rows.map(|output| (output, vec![rows])).into_iter().chain(sums.iter().map(|sums| (sums, vec![rows, features])));
    let outputs_fit = outputs.into_iter().all(|(buffer, shape)| fits(buffer, &shape) && !buffer.readonly());
    if weight_features != features
        || !softmax::usable(features)
        || !fits(&hidden, &[rows, features])
        || !fits(&weight, &[vocabulary, features])
        || !outputs_fit
        || targets.len() != rows
        || targets.iter().any(|target| *target >= vocabulary)
    {
        return Err(argument_error());
    }
    let outputs: Vec<&PyBuffer<f32>> = of_rows.into_iter().chain(&sums).collect();
    writable(&[&hidden, &weight], &outputs)?;
    let (inputs, matrix) = (values(&hidden), values(&weight));
    let result = py.detach(|| softmax::softmax(inputs, matrix, features, &targets, threads, sums.is_some()));
    reference.copy_from_slice(py, &result.reference)?;
    total.copy_from_slice(py, &result.total)?;
    target_logit.copy_from_slice(py, &result.target_logit)?;
    sums.map_or(Ok(()), |sums| sums.copy_from_slice(py, &result.sums))
}

/// Whether this CPU supports `swiglu` and `swiglu_backward`.
#[pyfunction]
fn kernels_usable() -> bool {
    kernels::usable()
}

/// Writes silu(gate) * up to `out`. All tensors are contiguous and have the same length.
#[pyfunction]
fn swiglu(py: Python<'_>, threads: usize, gate: PyBuffer<f32>, up: PyBuffer<f32>, out: PyBuffer<f32>) -> PyResult<()> {
    same_length(&[&gate, &up], &[&out])?;
    let (gate, up, out) = (values(&gate), values(&up), values_mut(&out));
    py.detach(|| elements::forward(gate, up, out, threads));
    Ok(())
}

/// Writes the gradients of `gate` and `up` to `gate_grad` and `up_grad`, from the gradient `grad` of the result.
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

/// Writes attention over packed rows of `lengths` tokens to `out`, and each query's log-sum-exp to `divisors`.
///
/// `query` and `out` are [tokens, heads, features], `key` and `value` [tokens, key heads, features], `divisors` [tokens, heads]. See
/// [`Attention::forward`].
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

/// Writes the gradients of `query`, `key` and `value`, from the gradient `grad` of `out`. See [`Attention::backward`].
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

/// The shape of the attention, taken from the first of `queries` and `keys`. An error if the other tensors have other shapes.
fn attention_of<'a, const Q: usize, const K: usize>(
    lengths: &'a [usize],
    scale: f32,
    window: usize,
    queries: [&PyBuffer<f32>; Q],
    keys: [&PyBuffer<f32>; K],
    divisors: &PyBuffer<f32>,
) -> PyResult<Attention<'a>> {
    let &[_, heads, features] = queries[0].shape() else { return Err(argument_error()) };
    let &[_, key_heads, key_features] = keys[0].shape() else { return Err(argument_error()) };
    let attention = Attention { lengths, heads, key_heads, features, scale, window };
    let shapes =
        queries.iter().all(|buffer| buffer.shape() == queries[0].shape()) && keys.iter().all(|buffer| buffer.shape() == keys[0].shape());
    let fits = key_features == features && attention.fits(&[queries[0].item_count()], &[keys[0].item_count()]);
    let divisors_fit = divisors.item_count() * features == queries[0].item_count();
    if shapes && fits && divisors_fit { Ok(attention) } else { Err(argument_error()) }
}

/// An error unless all tensors are contiguous and of native byte order, and the outputs are writable and share no memory with any other
/// tensor.
fn writable(inputs: &[&PyBuffer<f32>], outputs: &[&PyBuffer<f32>]) -> PyResult<()> {
    let contiguous = inputs.iter().chain(outputs).all(|buffer| buffer.is_c_contiguous() && is_native(buffer));
    let separate = outputs.iter().enumerate().all(|(at, output)| {
        let others = inputs.iter().chain(&outputs[..at]);
        !output.readonly() && others.into_iter().all(|other| !overlap(output, other))
    });
    if contiguous && separate { Ok(()) } else { Err(argument_error()) }
}

/// Whether the numbers are in this machine's byte order; PyO3 accepts the other one, too.
fn is_native(buffer: &PyBuffer<f32>) -> bool {
    let order = if cfg!(target_endian = "little") { "<f" } else { ">f" };
    ["f", "@f", "=f", order].iter().any(|format| buffer.format().to_bytes() == format.as_bytes())
}

/// Whether two contiguous tensors share memory.
fn overlap(one: &PyBuffer<f32>, other: &PyBuffer<f32>) -> bool {
    let range = |buffer: &PyBuffer<f32>| {
        let start = buffer.buf_ptr() as usize;
        start..start + buffer.len_bytes()
    };
    let (one, other) = (range(one), range(other));
    one.start < other.end && other.start < one.end
}

/// An error unless all tensors have the same number of elements and the processor supports the kernels. Checks [`writable`] as well.
fn same_length(inputs: &[&PyBuffer<f32>], outputs: &[&PyBuffer<f32>]) -> PyResult<()> {
    let length = inputs[0].item_count();
    let all = || inputs.iter().chain(outputs);
    let fits = all().all(|buffer| buffer.item_count() == length);
    if fits && kernels::usable() { writable(inputs, outputs) } else { Err(argument_error()) }
}

/// The values of an input buffer. The caller has checked that it is contiguous.
pub(super) fn values(buffer: &PyBuffer<f32>) -> &[f32] {
    // SAFETY: the buffer is contiguous fp32, and its memory lives as long as the borrow. As with torch's functions, the caller must not
    // write to a tensor during the call.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.item_count()) }
}

/// The values of an output buffer. The caller has checked that it is contiguous and writable.
#[allow(clippy::mut_from_ref)]
fn values_mut(buffer: &PyBuffer<f32>) -> &mut [f32] {
    // SAFETY: as in `values`. `writable` has checked that no other tensor of the call shares its memory.
    unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast(), buffer.item_count()) }
}

fn argument_error() -> PyErr {
    PyValueError::new_err(
        "the kernels need contiguous fp32 tensors in native byte order with matching shapes, writable outputs that share no memory with other tensors, and a CPU with AVX-512",
    )
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
