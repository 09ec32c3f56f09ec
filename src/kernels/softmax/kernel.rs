//! A block of words and a panel of rows, in AVX-512.

use std::arch::x86_64::{
    __m512, _CMP_NLE_UQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use crate::kernels::LANES;
use crate::kernels::avx512::{Left, Right, exp, load, store, tile};
use crate::kernels::softmax::panel::{HEIGHT, Panel, State, WIDTH};

/// The reference grows where a logit is this much larger. Until then sums have terms up to exp(8), far from fp32's end.
const SLACK: f32 = 8.0;

/// Takes the words of `block`, [words, features], into the panel's state. `logits` has room for [words, WIDTH * LANES].
pub(crate) fn block(block: &[f32], features: usize, panel: &Panel, state: &mut State, logits: &mut [f32]) {
    let words = block.len() / features;
    assert!(logits.len() >= words * panel.width * LANES && panel.numbers.len() == features * panel.width * LANES);
    assert!(state.sums.is_empty() || state.sums.len() == panel.numbers.len());
    assert!(features.is_multiple_of(HEIGHT) && std::arch::is_x86_feature_detected!("avx512f"));
    // SAFETY: the processor has AVX-512, and the sizes are as the products take them.
    unsafe {
        match panel.width {
            1 => whole::<1>(block, words, features, &panel.numbers, state, logits),
            2 => whole::<2>(block, words, features, &panel.numbers, state, logits),
            WIDTH => whole::<WIDTH>(block, words, features, &panel.numbers, state, logits),
            other => unreachable!("a panel of {other} registers"),
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn whole<const N: usize>(block: &[f32], words: usize, features: usize, rows: &[f32], state: &mut State, logits: &mut [f32]) {
    let (weight, rows, logits) = (block.as_ptr(), rows.as_ptr(), logits.as_mut_ptr());
    // SAFETY: `block` is [words, features], `rows` [features, N * LANES], `logits` [words, N * LANES] at least.
    unsafe {
        let (row, right) = (N * LANES, |at: *const f32| Right { at, row: N * LANES });
        let mut word = 0;
        while word < words {
            let (left, out) = (Left { at: weight.add(word * features), row: features, column: 1 }, logits.add(word * row));
            if word + HEIGHT <= words {
                tile::<HEIGHT, N>(left, right(rows), out, row, features, false);
                word += HEIGHT;
            } else {
                tile::<1, N>(left, right(rows), out, row, features, false);
                word += 1;
            }
        }
        exponents::<N>(logits, words, state);
        if !state.sums.is_empty() {
            for feature in (0..features).step_by(HEIGHT) {
                let turned = Left { at: weight.add(feature), row: 1, column: features };
                tile::<HEIGHT, N>(turned, right(logits), state.sums.as_mut_ptr().add(feature * row), row, words, true);
            }
        }
    }
}

/// Logits become exp(logit - reference), and are added to the total; the reference grows before where it must.
#[target_feature(enable = "avx512f")]
unsafe fn exponents<const N: usize>(logits: *mut f32, words: usize, state: &mut State) {
    // SAFETY: `logits` is [words, N * LANES], and the state has a number for each lane.
    unsafe {
        let mut largest: [__m512; N] = [_mm512_set1_ps(f32::NEG_INFINITY); N];
        for word in 0..words {
            let numbers: [__m512; N] = load(logits.add(word * N * LANES));
            for (largest, number) in largest.iter_mut().zip(numbers) {
                *largest = _mm512_max_ps(*largest, number);
            }
        }
        let mut reference: [__m512; N] = load(state.reference.as_ptr());
        let slack = _mm512_set1_ps(SLACK);
        let grows = (0..N).any(|at| _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(largest[at], _mm512_add_ps(reference[at], slack)) != 0);
        if grows {
            let before = reference;
            for at in 0..N {
                reference[at] = _mm512_max_ps(before[at], largest[at]);
            }
            store(state.reference.as_mut_ptr(), reference);
            let scales: [__m512; N] = std::array::from_fn(|at| exp(_mm512_sub_ps(before[at], reference[at])));
            scale::<N>(state.total.as_mut_ptr(), 1, scales);
            scale::<N>(state.sums.as_mut_ptr(), state.sums.len() / (N * LANES), scales);
        }
        let mut total = [_mm512_setzero_ps(); N];
        for word in 0..words {
            let mut numbers: [__m512; N] = load(logits.add(word * N * LANES));
            for at in 0..N {
                numbers[at] = exp(_mm512_sub_ps(numbers[at], reference[at]));
                total[at] = _mm512_add_ps(total[at], numbers[at]);
            }
            store(logits.add(word * N * LANES), numbers);
        }
        let before: [__m512; N] = load(state.total.as_ptr());
        for at in 0..N {
            total[at] = _mm512_add_ps(before[at], total[at]);
        }
        store(state.total.as_mut_ptr(), total);
    }
}

/// Multiplies `count` rows of N registers.
#[target_feature(enable = "avx512f")]
unsafe fn scale<const N: usize>(numbers: *mut f32, count: usize, scales: [__m512; N]) {
    for row in 0..count {
        // SAFETY: the caller vouches for [count, N * LANES].
        unsafe {
            let mut values: [__m512; N] = load(numbers.add(row * N * LANES));
            for at in 0..N {
                values[at] = _mm512_mul_ps(values[at], scales[at]);
            }
            store(numbers.add(row * N * LANES), values);
        }
    }
}
