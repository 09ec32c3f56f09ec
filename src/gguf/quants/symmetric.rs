//! `Q3_K`, `Q6_K`: super-blocks of 256 numbers in 16 sub-blocks, each with a scale, which is quantized in turn.
//!
//! After `quantize_row_q3_K_ref`, `quantize_row_q6_K_ref` and their `_impl` (with importance) in ggml-quants.c of llama.cpp (MIT).
#![allow(clippy::inline_always)]

use half::f16;

use crate::gguf::quants::fit::{SymmetricFit, ZERO, fit_refined, fit_symmetric, importance_weights, products, sum, sum_of_squares};
use crate::gguf::quants::groups::{BlockEncoder, BlockGroup};
use crate::gguf::quants::lanes::{Lanes, MOST, Pair, Table, lane, nearest, table};
use crate::gguf::quants::with_min::pack_two_bits;

pub(super) struct Q3K;
pub(super) struct Q6K;

const SUBS: usize = 16;

impl BlockEncoder for Q6K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 210;

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let mut refused = V::none();
        let mut fits = [SymmetricFit { scale: V::splat(0.0), inverse: V::splat(0.0) }; SUBS];
        for (sub, x) in group.x.as_chunks::<16>().0.iter().enumerate() {
            let weights = match group.importance {
                Some(importance) => importance.as_chunks::<16>().0[sub],
                None => products(x, x),
            };
            fits[sub] = fit_symmetric(x, &weights, 32.0, &mut refused);
        }
        let (scales, inverses) = split(&fits);
        let (scales, inverses) = (table(&scales), table(&inverses));
        for (index, (numbers, out)) in group.numbers.as_chunks::<256>().0.iter().zip(out.as_chunks_mut::<210>().0).enumerate() {
            pack_q6(numbers, &lane(&scales, index), &lane(&inverses, index), out);
        }
        refused
    }
}

#[inline(always)]
fn split<V: Lanes>(fits: &[SymmetricFit<V>; SUBS]) -> ([V; SUBS], [V; SUBS]) {
    let (mut scales, mut inverses) = ([V::splat(0.0); SUBS], [V::splat(0.0); SUBS]);
    for (sub, fit) in fits.iter().enumerate() {
        (scales[sub], inverses[sub]) = (fit.scale, fit.inverse);
    }
    (scales, inverses)
}

/// The scale of largest magnitude, the first of equal ones.
#[inline(always)]
pub(super) fn largest_scale<const S: usize>(scales: &[f32; S]) -> f32 {
    let (mut magnitude, mut largest) = (0.0, 0.0);
    for scale in scales {
        if scale.abs() > magnitude {
            (magnitude, largest) = (scale.abs(), *scale);
        }
    }
    largest
}

/// Levels of 16 numbers, from 0 to 2 · top - 1, for a scale or, if that is zero, for the sub-block's own fit.
#[inline(always)]
fn sub_levels(numbers: &[f32; 16], d: f32, own: impl Fn(usize) -> u8, top: i32) -> [u8; 16] {
    let mut levels = [0; 16];
    if d == 0.0 {
        for (i, level) in levels.iter_mut().enumerate() {
            *level = own(i);
        }
    } else {
        for (level, number) in levels.iter_mut().zip(numbers) {
            *level = (nearest(number / d).min(top - 1).max(-top) + top) as u8;
        }
    }
    levels
}

/// The levels of a sub-block's own fit.
#[inline(always)]
fn own_level(number: f32, inverse: f32, top: i32) -> u8 {
    if inverse.is_infinite() { 0 } else { (nearest(inverse * number).min(top - 1).max(-top) + top) as u8 }
}

#[inline(always)]
fn pack_q6(numbers: &[f32; 256], scales: &[f32; SUBS], inverses: &[f32; SUBS], out: &mut [u8; 210]) {
    let largest = largest_scale(scales);
    if largest.abs() < ZERO {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / largest;
    let scale = f16::from_f32(1.0 / inverse);
    let mut levels = [0; 256];
    let (low, rest) = out.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    let (packed, last) = rest.split_at_mut(SUBS);
    for sub in 0..SUBS {
        let level = nearest(inverse * scales[sub]).min(127) as i8;
        packed[sub] = level.cast_unsigned();
        let d = scale.to_f32() * f32::from(level);
        let numbers = &numbers.as_chunks::<16>().0[sub];
        levels.as_chunks_mut::<16>().0[sub] = sub_levels(numbers, d, |i| own_level(numbers[i], inverses[sub], 32), 32);
    }
    for (half, levels) in levels.as_chunks::<128>().0.iter().enumerate() {
        let (low, high) = (&mut low[64 * half..][..64], &mut high[32 * half..][..32]);
        for i in 0..32 {
            low[i] = levels[i] & 15 | (levels[i + 64] & 15) << 4;
            low[i + 32] = levels[i + 32] & 15 | (levels[i + 96] & 15) << 4;
            high[i] = levels[i] >> 4 | levels[i + 32] >> 4 << 2 | levels[i + 64] >> 4 << 4 | levels[i + 96] >> 4 << 6;
        }
    }
    last.copy_from_slice(&scale.to_le_bytes());
}

impl BlockEncoder for Q3K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 110;

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        if let Some(importance) = group.importance { q3_by_importance(group, importance, out) } else { q3_refined(group, out) }
    }
}

#[inline(always)]
fn q3_refined<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
    let mut refused = V::none();
    let mut scales = [V::splat(0.0); SUBS];
    let mut own: Vec<Table<16>> = vec![[[0.0; MOST]; 16]; SUBS];
    // Each step of a refinement waits for the one before, so two sub-blocks are refined side by side.
    for (sub, x) in group.x.as_chunks::<32>().0.iter().enumerate() {
        let mut pairs = [Pair(x[0], x[0]); 16];
        for (i, pair) in pairs.iter_mut().enumerate() {
            *pair = Pair(x[i], x[i + 16]);
        }
        let mut out_of_range = Pair::<V>::none();
        let (scale, levels) = fit_refined(&pairs, 4.0, &mut out_of_range);
        refused = V::or(refused, V::or(out_of_range.0, out_of_range.1));
        (scales[2 * sub], scales[2 * sub + 1]) = (scale.0, scale.1);
        for (i, level) in levels.iter().enumerate() {
            level.0.write(&mut own[2 * sub][i]);
            level.1.write(&mut own[2 * sub + 1][i]);
        }
    }
    let scales = table(&scales);
    for (index, (numbers, out)) in group.numbers.as_chunks::<256>().0.iter().zip(out.as_chunks_mut::<110>().0).enumerate() {
        let scales = lane(&scales, index);
        let largest = largest_scale(&scales);
        let (scale, levels) = if largest == 0.0 {
            (f16::ZERO, [0; SUBS])
        } else {
            let inverse = -32.0 / largest;
            let mut levels = [0; SUBS];
            for (level, scale) in levels.iter_mut().zip(scales) {
                *level = (i32::from(nearest(inverse * scale) as i8).clamp(-32, 31) + 32) as u8;
            }
            (f16::from_f32(1.0 / inverse), levels)
        };
        pack_q3(numbers, scale, &levels, |sub, i| own[sub][i][index] as u8, out);
    }
    refused
}

#[inline(always)]
fn q3_by_importance<V: Lanes>(group: &BlockGroup<'_, V>, importance: &[V], out: &mut [u8]) -> V::Mask {
    let (mut refused, zero) = (V::none(), V::splat(0.0));
    let energy = sum_of_squares(group.x).mul(V::splat(2.0)).mul(V::splat(1.0 / 256.0));
    let mut fits = [SymmetricFit { scale: zero, inverse: zero }; SUBS];
    let mut sums = [zero; SUBS];
    for (sub, (x, importance)) in group.x.as_chunks::<16>().0.iter().zip(importance.as_chunks::<16>().0).enumerate() {
        let weights = importance_weights(importance, energy, x);
        sums[sub] = sum(&weights);
        fits[sub] = fit_symmetric(x, &weights, 4.0, &mut refused);
    }
    let (scales, inverses) = split(&fits);
    let whole = fit_symmetric(&scales, &sums, 32.0, &mut refused);
    let (inverses, scales) = (table(&inverses), table(&scales));
    let (inverse, scale) = (table(&[whole.inverse]), table(&[whole.scale]));
    for (index, (numbers, out)) in group.numbers.as_chunks::<256>().0.iter().zip(out.as_chunks_mut::<110>().0).enumerate() {
        let mut levels = [0; SUBS];
        for (level, scale) in levels.iter_mut().zip(&scales) {
            *level = own_level(scale[index], inverse[0][index], 32);
        }
        let own = |sub: usize, i: usize| own_level(numbers[16 * sub + i], inverses[sub][index], 4);
        pack_q3(numbers, f16::from_f32(scale[0][index]), &levels, own, out);
    }
    refused
}

#[inline(always)]
fn pack_q3(numbers: &[f32; 256], scale: f16, scales: &[u8; SUBS], own: impl Fn(usize, usize) -> u8, out: &mut [u8; 110]) {
    let mut levels = [0; 256];
    let (high, rest) = out.split_at_mut(32);
    let (low, rest) = rest.split_at_mut(64);
    let (packed, last) = rest.split_at_mut(12);
    packed.fill(0);
    for (sub, level) in scales.iter().copied().enumerate() {
        packed[sub % 8] |= if sub < 8 { level & 15 } else { (level & 15) << 4 };
        packed[8 + sub % 4] |= level >> 4 << (2 * (sub / 4));
        let d = scale.to_f32() * f32::from(level.cast_signed() - 32);
        levels.as_chunks_mut::<16>().0[sub] = sub_levels(&numbers.as_chunks::<16>().0[sub], d, |i| own(sub, i), 4);
    }
    high.fill(0);
    for (i, high) in high.iter_mut().enumerate() {
        for part in 0..8 {
            *high |= levels[part * 32 + i] >> 2 << part;
        }
    }
    for level in &mut levels {
        *level &= 3;
    }
    pack_two_bits(&levels, low);
    last.copy_from_slice(&scale.to_le_bytes());
}
