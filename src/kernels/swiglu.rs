//! silu(gate) * up and its gradients, each in one pass over memory, which is what they cost.

#[cfg(target_arch = "x86_64")]
use kernel::{backward_part, forward_part};

/// Fewer numbers than this are not worth a thread: one reads and writes memory nearly as fast as two.
const WORTH_A_THREAD: usize = 1 << 20;

/// `out` becomes silu(gate) * up = gate * up / (1 + exp(-gate)). `kernels::usable` must hold, and the lengths be equal.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32], threads: usize) {
    assert!(super::usable() && gate.len() == out.len() && up.len() == out.len());
    let part = part(out.len(), threads);
    std::thread::scope(|scope| {
        let mut parts: Vec<_> = gate.chunks(part).zip(up.chunks(part)).zip(out.chunks_mut(part)).collect();
        // SAFETY: the processor has AVX-512.
        let run = |((gate, up), out): ((&[f32], &[f32]), &mut [f32])| unsafe { forward_part(gate, up, out) };
        let last = parts.pop();
        for part in parts {
            scope.spawn(move || run(part));
        }
        last.map(run);
    });
}

/// From `[grad, gate, up]` the gradients of gate and up: with s = 1 / (1 + exp(-gate)), grad * up * s * (1 + gate * (1 - s)) and
/// grad * gate * s. `kernels::usable` must hold, and the lengths be equal.
pub fn backward([grad, gate, up]: [&[f32]; 3], [gate_grad, up_grad]: [&mut [f32]; 2], threads: usize) {
    assert!(super::usable() && [gate.len(), up.len(), gate_grad.len(), up_grad.len()] == [grad.len(); 4]);
    let part = part(grad.len(), threads);
    std::thread::scope(|scope| {
        let inputs = grad.chunks(part).zip(gate.chunks(part)).zip(up.chunks(part));
        let outputs = gate_grad.chunks_mut(part).zip(up_grad.chunks_mut(part));
        let mut parts: Vec<_> = inputs.zip(outputs).map(|(((a, b), c), (d, e))| ([a, b, c], [d, e])).collect();
        // SAFETY: the processor has AVX-512.
        let run = |(inputs, outputs): ([&[f32]; 3], [&mut [f32]; 2])| unsafe { backward_part(inputs, outputs) };
        let last = parts.pop();
        for part in parts {
            scope.spawn(move || run(part));
        }
        last.map(run);
    });
}

fn part(length: usize, threads: usize) -> usize {
    let threads = threads.min(length / WORTH_A_THREAD).max(1);
    length.div_ceil(threads).max(1)
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn forward_part(_: &[f32], _: &[f32], _: &mut [f32]) {
    unreachable!("`usable` is false here");
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn backward_part(_: [&[f32]; 3], _: [&mut [f32]; 2]) {
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
    pub(crate) fn forward_part(gate: &[f32], up: &[f32], out: &mut [f32]) {
        let one = _mm512_set1_ps(1.0);
        registers([gate, up], [out], |[gate, up]| {
            let divisor = _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_set1_ps(0.0), gate)));
            [_mm512_mul_ps(_mm512_div_ps(gate, divisor), up)]
        });
    }

    #[target_feature(enable = "avx512f")]
    pub(crate) fn backward_part(inputs: [&[f32]; 3], outputs: [&mut [f32]; 2]) {
        let one = _mm512_set1_ps(1.0);
        registers(inputs, outputs, |[grad, gate, up]| {
            let share = _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_set1_ps(0.0), gate))));
            let slope = _mm512_mul_ps(share, _mm512_add_ps(one, _mm512_mul_ps(gate, _mm512_sub_ps(one, share))));
            [_mm512_mul_ps(_mm512_mul_ps(grad, up), slope), _mm512_mul_ps(grad, _mm512_mul_ps(gate, share))]
        });
    }

    /// Applies `compute` to registers of the inputs; what is left at the end goes through a register filled up with zeros.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn registers<const I: usize, const O: usize>(
        inputs: [&[f32]; I],
        mut outputs: [&mut [f32]; O],
        compute: impl Fn([__m512; I]) -> [__m512; O],
    ) {
        let length = outputs[0].len();
        let whole = length / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            let mut numbers = [_mm512_setzero_ps(); I];
            for (number, input) in numbers.iter_mut().zip(inputs) {
                // SAFETY: all slices have `length` numbers, and `at + LANES` is no more.
                [*number] = unsafe { load(input.as_ptr().add(at)) };
            }
            for (made, output) in compute(numbers).into_iter().zip(&mut outputs) {
                // SAFETY: the same.
                unsafe { store(output.as_mut_ptr().add(at), [made]) };
            }
        }
        let mut numbers = [_mm512_setzero_ps(); I];
        for (number, input) in numbers.iter_mut().zip(inputs) {
            let mut filled = [0.0; LANES];
            filled[..length - whole].copy_from_slice(&input[whole..]);
            // SAFETY: `filled` is a register's numbers.
            [*number] = unsafe { load(filled.as_ptr()) };
        }
        for (made, output) in compute(numbers).into_iter().zip(&mut outputs) {
            let mut filled = [0.0; LANES];
            // SAFETY: the same.
            unsafe { store(filled.as_mut_ptr(), [made]) };
            output[whole..].copy_from_slice(&filled[..length - whole]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{backward, forward};

    #[test]
    fn both_are_the_textbooks() {
        if !crate::kernels::usable() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        for (length, threads) in [(0, 1), (1, 4), (16, 2), (100, 1), (70_003, 2), (3 << 20, 3)] {
            let of = |factor: f32| -> Vec<f32> { (0..length).map(|at| ((at * 7919 % 2003) as f32 / 100.0 - 10.0) * factor).collect() };
            let (grad, gate, up) = (of(0.5), of(1.0), of(-0.7));
            let (mut out, mut gate_grad, mut up_grad) = (vec![9.0; length], vec![9.0; length], vec![9.0; length]);
            forward(&gate, &up, &mut out, threads);
            backward([&grad, &gate, &up], [&mut gate_grad, &mut up_grad], threads);
            let close = |ours: f32, exact: f64| assert!((f64::from(ours) - exact).abs() <= 1e-6 * (1.0 + exact.abs()), "{ours} {exact}");
            for at in 0..length {
                let (d, g, u) = (f64::from(grad[at]), f64::from(gate[at]), f64::from(up[at]));
                let s = 1.0 / (1.0 + (-g).exp());
                close(out[at], g * s * u);
                close(gate_grad[at], d * u * s * (1.0 + g * (1.0 - s)));
                close(up_grad[at], d * g * s);
            }
        }
    }

    #[test]
    fn numbers_far_out_and_none_at_all() {
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
