//! AVX-512 functions that the kernels share: exponential, loads and stores, and one tile of a matrix product.

use std::arch::x86_64::{
    __m512, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm512_add_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use crate::kernels::LANES;

/// exp(x) of each lane; NaN stays NaN.
///
/// The result is 2^n * p(r), where x = n ln 2 + r and |r| <= ln 2 / 2. The polynomial p has the coefficients of `expf` in the Cephes
/// library (S. Moshier).
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn exp(x: __m512) -> __m512 {
    // Below -104 the result is zero. `max` returns its second operand if one is NaN, so `x` must be the second.
    let x = _mm512_max_ps(_mm512_set1_ps(-104.0), x);
    let power_of_two = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        x,
        _mm512_set1_ps(std::f32::consts::LOG2_E),
    ));
    // ln 2 is subtracted in two parts, so that the remainder keeps its precision.
    let remainder = _mm512_fnmadd_ps(power_of_two, _mm512_set1_ps(0.693_359_4), x);
    let remainder = _mm512_fnmadd_ps(power_of_two, _mm512_set1_ps(-2.121_944_4e-4), remainder);
    let mut polynomial = _mm512_set1_ps(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = _mm512_fmadd_ps(polynomial, remainder, _mm512_set1_ps(coefficient));
    }
    let polynomial = _mm512_fmadd_ps(polynomial, _mm512_mul_ps(remainder, remainder), _mm512_add_ps(remainder, _mm512_set1_ps(1.0)));
    _mm512_scalef_ps(polynomial, power_of_two)
}

/// Loads N registers from consecutive memory.
///
/// # Safety
/// `source` must be valid for reading `N * LANES` values.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn load<const N: usize>(source: *const f32) -> [__m512; N] {
    let mut registers = [_mm512_setzero_ps(); N];
    for (index, register) in registers.iter_mut().enumerate() {
        // SAFETY: the caller guarantees N registers of readable memory.
        *register = unsafe { _mm512_loadu_ps(source.add(index * LANES)) };
    }
    registers
}

/// Stores N registers to consecutive memory.
///
/// # Safety
/// `target` must be valid for writing `N * LANES` values.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn store<const N: usize>(target: *mut f32, registers: [__m512; N]) {
    for (index, register) in registers.into_iter().enumerate() {
        // SAFETY: the caller guarantees N registers of writable memory.
        unsafe { _mm512_storeu_ps(target.add(index * LANES), register) };
    }
}

/// The left matrix of a product. Element (r, c) is at `data + r * row_stride + c * column_stride`, so it may be a transposed view.
#[derive(Clone, Copy)]
pub(crate) struct LhsMatrix {
    pub data: *const f32,
    pub row_stride: usize,
    pub column_stride: usize,
}

/// The right matrix of a product. Each row is contiguous, and rows are `row_stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct RhsMatrix {
    pub data: *const f32,
    pub row_stride: usize,
}

/// Computes one output tile [M, N * LANES] = lhs [M, depth] times rhs [depth, N * LANES], all of it in registers.
///
/// The rows of `out` are `out_stride` values apart. With `accumulate` the product is added to `out`, otherwise it replaces `out`. It is added
/// at the end, so that errors do not grow over the sum of several products as over one long chain.
///
/// # Safety
/// The three matrices must be valid memory of these shapes and strides.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn matmul_tile<const M: usize, const N: usize>(
    lhs: LhsMatrix,
    rhs: RhsMatrix,
    out: *mut f32,
    out_stride: usize,
    depth: usize,
    accumulate: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    // SAFETY: the caller guarantees the three matrices.
    unsafe {
        for k in 0..depth {
            let rhs_row: [__m512; N] = load(rhs.data.add(k * rhs.row_stride));
            for (row, sums) in sums.iter_mut().enumerate() {
                let lhs_value = _mm512_set1_ps(*lhs.data.add(row * lhs.row_stride + k * lhs.column_stride));
                for (sum, rhs_values) in sums.iter_mut().zip(rhs_row) {
                    *sum = _mm512_fmadd_ps(lhs_value, rhs_values, *sum);
                }
            }
        }
        for (row, mut sums) in sums.into_iter().enumerate() {
            let out = out.add(row * out_stride);
            if accumulate {
                let before: [__m512; N] = load(out);
                for (sum, before) in sums.iter_mut().zip(before) {
                    *sum = _mm512_add_ps(before, *sum);
                }
            }
            store(out, sums);
        }
    }
}
