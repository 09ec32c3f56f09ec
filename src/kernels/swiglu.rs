//! SwiGLU, silu(gate) * up, and its gradients. Each is one pass over memory, which is what limits their speed.

use crate::base::threads;

#[cfg(target_arch = "x86_64")]
use kernel::{backward_chunk, forward_chunk};

/// Minimum number of values for each thread. With fewer, one thread reads and writes memory nearly as fast as two.
const MIN_VALUES_PER_THREAD: usize = 1 << 20;

/// Writes silu(gate) * up = gate * up / (1 + exp(-gate)) to `out`.
///
/// # Panics
/// If `kernels::usable` is false, or the lengths differ.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32], threads: usize) {
    assert!(super::usable() && gate.len() == out.len() && up.len() == out.len());
    let chunk_size = chunk_size(out.len(), threads);
    let chunks = gate.chunks(chunk_size).zip(up.chunks(chunk_size)).zip(out.chunks_mut(chunk_size));
    // SAFETY: the processor has AVX-512.
    threads::for_each_item(chunks.collect(), threads, |((gate, up), out)| unsafe { forward_chunk(gate, up, out) });
}

/// Computes the gradients of gate and up from `[grad, gate, up]`, where `grad` is the gradient of the result.
///
/// With s = 1 / (1 + exp(-gate)), that of gate is grad * up * s * (1 + gate * (1 - s)), and that of up is grad * gate * s.
///
/// # Panics
/// If `kernels::usable` is false, or the lengths differ.
pub fn backward([grad, gate, up]: [&[f32]; 3], [gate_grad, up_grad]: [&mut [f32]; 2], threads: usize) {
    assert!(super::usable() && [gate.len(), up.len(), gate_grad.len(), up_grad.len()] == [grad.len(); 4]);
    let chunk_size = chunk_size(grad.len(), threads);
    let inputs = grad.chunks(chunk_size).zip(gate.chunks(chunk_size)).zip(up.chunks(chunk_size));
    let outputs = gate_grad.chunks_mut(chunk_size).zip(up_grad.chunks_mut(chunk_size));
    let chunks = inputs.zip(outputs).map(|(((grad, gate), up), (gate_grad, up_grad))| ([grad, gate, up], [gate_grad, up_grad]));
    // SAFETY: the processor has AVX-512.
    threads::for_each_item(chunks.collect(), threads, |(inputs, outputs)| unsafe { backward_chunk(inputs, outputs) });
}

/// Values of each thread's chunk, at least 1.
fn chunk_size(length: usize, threads: usize) -> usize {
    let threads = threads.min(length / MIN_VALUES_PER_THREAD).max(1);
    length.div_ceil(threads).max(1)
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn forward_chunk(_: &[f32], _: &[f32], _: &mut [f32]) {
    unreachable!("`usable` is false here");
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn backward_chunk(_: [&[f32]; 3], _: [&mut [f32]; 2]) {
    unreachable!("`usable` is false here");
}

#[cfg(target_arch = "x86_64")]
mod kernel {
    use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_div_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps};

    use crate::kernels::LANES;
    use crate::kernels::avx512::exp;
    use crate::kernels::avx512::load;
    use crate::kernels::avx512::store;

    #[target_feature(enable = "avx512f")]
    pub(crate) fn forward_chunk(gate: &[f32], up: &[f32], out: &mut [f32]) {
        let one = _mm512_set1_ps(1.0);
        map_registers([gate, up], [out], |[gate, up]| {
            let divisor = _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_set1_ps(0.0), gate)));
            [_mm512_mul_ps(_mm512_div_ps(gate, divisor), up)]
        });
    }

    #[target_feature(enable = "avx512f")]
    pub(crate) fn backward_chunk(inputs: [&[f32]; 3], outputs: [&mut [f32]; 2]) {
        let one = _mm512_set1_ps(1.0);
        map_registers(inputs, outputs, |[grad, gate, up]| {
            let sigmoid = _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_set1_ps(0.0), gate))));
            let silu_derivative = _mm512_mul_ps(sigmoid, _mm512_add_ps(one, _mm512_mul_ps(gate, _mm512_sub_ps(one, sigmoid))));
            [_mm512_mul_ps(_mm512_mul_ps(grad, up), silu_derivative), _mm512_mul_ps(grad, _mm512_mul_ps(gate, sigmoid))]
        });
    }

    /// Applies `compute` to each register of the inputs and stores its results to the outputs. The last, partial register is padded with
    /// zeros.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn map_registers<const I: usize, const O: usize>(
        inputs: [&[f32]; I],
        mut outputs: [&mut [f32]; O],
        compute: impl Fn([__m512; I]) -> [__m512; O],
    ) {
        let length = outputs[0].len();
        let full_length = length / LANES * LANES;
        for at in (0..full_length).step_by(LANES) {
            let mut values = [_mm512_setzero_ps(); I];
            for (value, input) in values.iter_mut().zip(inputs) {
                // SAFETY: all slices have `length` values, and `at + LANES` is at most `length`.
                [*value] = unsafe { load(input.as_ptr().add(at)) };
            }
            for (result, output) in compute(values).into_iter().zip(&mut outputs) {
                // SAFETY: as above.
                unsafe { store(output.as_mut_ptr().add(at), [result]) };
            }
        }
        let mut values = [_mm512_setzero_ps(); I];
        for (value, input) in values.iter_mut().zip(inputs) {
            let mut padded = [0.0; LANES];
            padded[..length - full_length].copy_from_slice(&input[full_length..]);
            // SAFETY: `padded` has the values of one register.
            [*value] = unsafe { load(padded.as_ptr()) };
        }
        for (result, output) in compute(values).into_iter().zip(&mut outputs) {
            let mut padded = [0.0; LANES];
            // SAFETY: as above, `padded` has the values of one register.
            unsafe { store(padded.as_mut_ptr(), [result]) };
            output[full_length..].copy_from_slice(&padded[..length - full_length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{backward, forward};

    #[test]
    fn forward_and_backward_match_the_definition() {
        if !crate::kernels::usable() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        for (length, threads) in [(0, 1), (1, 4), (16, 2), (100, 1), (70_003, 2), (3 << 20, 3)] {
            let values = |factor: f32| -> Vec<f32> { (0..length).map(|at| ((at * 7919 % 2003) as f32 / 100.0 - 10.0) * factor).collect() };
            let (grad, gate, up) = (values(0.5), values(1.0), values(-0.7));
            let (mut out, mut gate_grad, mut up_grad) = (vec![9.0; length], vec![9.0; length], vec![9.0; length]);
            forward(&gate, &up, &mut out, threads);
            backward([&grad, &gate, &up], [&mut gate_grad, &mut up_grad], threads);
            let assert_close = |actual: f32, expected: f64| {
                assert!((f64::from(actual) - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{actual} {expected}");
            };
            for at in 0..length {
                let (d, g, u) = (f64::from(grad[at]), f64::from(gate[at]), f64::from(up[at]));
                let s = 1.0 / (1.0 + (-g).exp());
                assert_close(out[at], g * s * u);
                assert_close(gate_grad[at], d * u * s * (1.0 + g * (1.0 - s)));
                assert_close(up_grad[at], d * g * s);
            }
        }
    }

    #[test]
    fn large_values_have_their_limits_and_nan_stays_nan() {
        if !crate::kernels::usable() {
            return;
        }
        let gate = [200.0, -200.0, f32::NAN, f32::INFINITY];
        let mut out = [0.0; 4];
        forward(&gate, &[1.0; 4], &mut out, 1);
        assert_eq!((out[0], out[3]), (200.0, f32::INFINITY));
        assert!(out[1].abs() < 1e-30 && out[2].is_nan());
    }
}
