//! What the kernels share in AVX-512.

use std::arch::x86_64::{
    __m512, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm512_add_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use crate::kernels::LANES;

/// e to the power of each number: 2^n times a polynomial of what remains, at most ln 2 / 2, in the coefficients of the Cephes
/// library's expf (S. Moshier). No number stays none.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn exp(of: __m512) -> __m512 {
    // Below, the result is zero; the order has no-numbers pass.
    let of = _mm512_max_ps(_mm512_set1_ps(-104.0), of);
    let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        of,
        _mm512_set1_ps(std::f32::consts::LOG2_E),
    ));
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693_359_4), of);
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.121_944_4e-4), rest);
    let mut sum = _mm512_set1_ps(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
    }
    let sum = _mm512_fmadd_ps(sum, _mm512_mul_ps(rest, rest), _mm512_add_ps(rest, _mm512_set1_ps(1.0)));
    _mm512_scalef_ps(sum, whole)
}

/// N registers from memory.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn load<const N: usize>(from: *const f32) -> [__m512; N] {
    let mut loaded = [_mm512_setzero_ps(); N];
    for (at, register) in loaded.iter_mut().enumerate() {
        // SAFETY: the caller vouches for N registers.
        *register = unsafe { _mm512_loadu_ps(from.add(at * LANES)) };
    }
    loaded
}

/// N registers to memory.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn store<const N: usize>(to: *mut f32, numbers: [__m512; N]) {
    for (at, register) in numbers.into_iter().enumerate() {
        // SAFETY: the caller vouches for N registers.
        unsafe { _mm512_storeu_ps(to.add(at * LANES), register) };
    }
}

/// The left side of a product: number (row, column) lies at row * `row` + column * `column`.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub at: *const f32,
    pub row: usize,
    pub column: usize,
}

/// The right side, row by row.
#[derive(Clone, Copy)]
pub(crate) struct Right {
    pub at: *const f32,
    pub row: usize,
}

/// `out`, M rows of N registers, `out_row` apart, becomes [M, depth] times [depth, N * LANES], or has it added.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn tile<const M: usize, const N: usize>(
    left: Left,
    right: Right,
    out: *mut f32,
    out_row: usize,
    depth: usize,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    // SAFETY: the caller vouches for the three matrices.
    unsafe {
        if add {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = load(out.add(row * out_row));
            }
        }
        for at in 0..depth {
            let numbers: [__m512; N] = load(right.at.add(at * right.row));
            for (row, sums) in sums.iter_mut().enumerate() {
                let one = _mm512_set1_ps(*left.at.add(row * left.row + at * left.column));
                for (sum, number) in sums.iter_mut().zip(numbers) {
                    *sum = _mm512_fmadd_ps(one, number, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            store(out.add(row * out_row), sums);
        }
    }
}
