//! The softmax of one block of the vocabulary for one panel of rows, in AVX-512.

use std::arch::x86_64::{
    __m512, _CMP_NLE_UQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use crate::kernels::LANES;
use crate::kernels::avx512::{LhsMatrix, RhsMatrix, exp, load, matmul_tile, store};
use crate::kernels::softmax::panel::{PANEL_REGISTERS, RowPanel, RunningSoftmax, TILE_ROWS};

/// Features that one chain of additions covers in a product; the chains' results are added. The error of an fp32 sum grows with its chain.
const CHAIN: usize = 256;

/// The reference grows if a logit exceeds it by more than this. Until then terms of the sums are at most exp(8), far below fp32's maximum.
const REFERENCE_SLACK: f32 = 8.0;

/// Adds a block of the vocabulary to the panel's running softmax.
///
/// `block` is [tokens, features] of the output matrix, from token `first_token` on. `logits` is a buffer for at least [tokens, registers * LANES].
pub(crate) fn accumulate_block(
    block: &[f32],
    first_token: usize,
    features: usize,
    panel: &RowPanel,
    running: &mut RunningSoftmax,
    logits: &mut [f32],
) {
    let tokens = block.len() / features;
    assert!(logits.len() >= tokens * panel.registers * LANES && panel.values.len() == features * panel.registers * LANES);
    assert!(running.sums.is_empty() || running.sums.len() == panel.values.len());
    assert!(panel.targets.len() <= panel.registers * LANES);
    assert!(features.is_multiple_of(TILE_ROWS) && std::arch::is_x86_feature_detected!("avx512f"));
    // SAFETY: the processor has AVX-512, and the sizes are those that the products need.
    unsafe {
        match panel.registers {
            1 => accumulate_block_avx512::<1>(block, first_token, features, panel, running, logits),
            2 => accumulate_block_avx512::<2>(block, first_token, features, panel, running, logits),
            PANEL_REGISTERS => accumulate_block_avx512::<PANEL_REGISTERS>(block, first_token, features, panel, running, logits),
            other => unreachable!("a panel of {other} registers"),
        }
    }
}

/// [`accumulate_block`] for a panel of N registers.
///
/// # Safety
/// `block` must be [tokens, features], the panel's values [features, N * LANES] and `logits` at least [tokens, N * LANES]. `running.sums` must be
/// empty or have the size of the panel's values, and `features` must be a multiple of `TILE_ROWS`.
#[target_feature(enable = "avx512f")]
unsafe fn accumulate_block_avx512<const N: usize>(
    block: &[f32],
    first_token: usize,
    features: usize,
    panel: &RowPanel,
    running: &mut RunningSoftmax,
    logits: &mut [f32],
) {
    let (tokens, rows, targets) = (block.len() / features, &panel.values, &panel.targets);
    let (weight, rows, logits) = (block.as_ptr(), rows.as_ptr(), logits.as_mut_ptr());
    let chains = (0..features).step_by(CHAIN).map(|first| (first, CHAIN.min(features - first)));
    // SAFETY: `block` is [tokens, features], `rows` [features, N * LANES], `logits` [tokens, N * LANES] at least.
    unsafe {
        let (stride, rhs) = (N * LANES, |data: *const f32| RhsMatrix { data, row_stride: N * LANES });
        let mut token = 0;
        while token < tokens {
            let whole = token + TILE_ROWS <= tokens;
            let out = logits.add(token * stride);
            for (first, depth) in chains.clone() {
                let lhs = LhsMatrix { data: weight.add(token * features + first), row_stride: features, column_stride: 1 };
                if whole {
                    matmul_tile::<TILE_ROWS, N>(lhs, rhs(rows.add(first * stride)), out, stride, depth, first > 0);
                } else {
                    matmul_tile::<1, N>(lhs, rhs(rows.add(first * stride)), out, stride, depth, first > 0);
                }
            }
            token += if whole { TILE_ROWS } else { 1 };
        }
        for (lane, target) in targets.iter().enumerate() {
            if let Some(token) = target.checked_sub(first_token).filter(|token| *token < tokens) {
                running.target_logit[lane] = *logits.add(token * stride + lane);
            }
        }
        exponentiate_logits::<N>(logits, tokens, running);
        if !running.sums.is_empty() {
            for feature in (0..features).step_by(TILE_ROWS) {
                let transposed = LhsMatrix { data: weight.add(feature), row_stride: 1, column_stride: features };
                let out = running.sums.as_mut_ptr().add(feature * stride);
                matmul_tile::<TILE_ROWS, N>(transposed, rhs(logits), out, stride, tokens, true);
            }
        }
    }
}

/// Replaces logits by exp(logit - reference), and adds these to the total.
///
/// If the largest logit exceeds the reference by more than [`REFERENCE_SLACK`] or is NaN, the reference grows first, and total and sums are
/// rescaled.
///
/// # Safety
/// `logits` must be valid for [tokens, N * LANES].
#[target_feature(enable = "avx512f")]
unsafe fn exponentiate_logits<const N: usize>(logits: *mut f32, tokens: usize, running: &mut RunningSoftmax) {
    // SAFETY: `logits` is [tokens, N * LANES], and the running softmax has a value for each lane.
    unsafe {
        let mut maximum: [__m512; N] = [_mm512_set1_ps(f32::NEG_INFINITY); N];
        for token in 0..tokens {
            let values: [__m512; N] = load(logits.add(token * N * LANES));
            for (maximum, value) in maximum.iter_mut().zip(values) {
                *maximum = _mm512_max_ps(*maximum, value);
            }
        }
        let mut reference: [__m512; N] = load(running.reference.as_ptr());
        let slack = _mm512_set1_ps(REFERENCE_SLACK);
        let grows = (0..N).any(|at| _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(maximum[at], _mm512_add_ps(reference[at], slack)) != 0);
        if grows {
            let previous = reference;
            for at in 0..N {
                reference[at] = _mm512_max_ps(previous[at], maximum[at]);
            }
            store(running.reference.as_mut_ptr(), reference);
            let factors: [__m512; N] = std::array::from_fn(|at| exp(_mm512_sub_ps(previous[at], reference[at])));
            scale_rows::<N>(running.total.as_mut_ptr(), 1, factors);
            scale_rows::<N>(running.sums.as_mut_ptr(), running.sums.len() / (N * LANES), factors);
        }
        let mut total = [_mm512_setzero_ps(); N];
        for token in 0..tokens {
            let mut values: [__m512; N] = load(logits.add(token * N * LANES));
            for at in 0..N {
                values[at] = exp(_mm512_sub_ps(values[at], reference[at]));
                total[at] = _mm512_add_ps(total[at], values[at]);
            }
            store(logits.add(token * N * LANES), values);
        }
        let previous: [__m512; N] = load(running.total.as_ptr());
        for at in 0..N {
            total[at] = _mm512_add_ps(previous[at], total[at]);
        }
        store(running.total.as_mut_ptr(), total);
    }
}

/// Multiplies each of `count` rows of N registers by `factors`.
///
/// # Safety
/// `matrix` must be valid for [count, N * LANES].
#[target_feature(enable = "avx512f")]
unsafe fn scale_rows<const N: usize>(matrix: *mut f32, count: usize, factors: [__m512; N]) {
    for row in 0..count {
        // SAFETY: the caller guarantees [count, N * LANES].
        unsafe {
            let mut values: [__m512; N] = load(matrix.add(row * N * LANES));
            for at in 0..N {
                values[at] = _mm512_mul_ps(values[at], factors[at]);
            }
            store(matrix.add(row * N * LANES), values);
        }
    }
}
