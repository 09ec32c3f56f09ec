//! `Q2_K`, `Q4_K`, `Q5_K`: super-blocks of 256 numbers in sub-blocks, each with a scale and a minimum, which are quantized in turn.
//!
//! After `quantize_row_q4_K_ref` and `quantize_row_q4_K_impl` (with importance) and their like in ggml-quants.c of llama.cpp (MIT).
#![allow(clippy::inline_always)]

use std::array;

use half::f16;

use crate::gguf::quants::fit::{MinFit, Trials, fit_min, fit_scales, importance_weights, sum, sum_of_squares};
use crate::gguf::quants::groups::{BlockEncoder, BlockGroup};
use crate::gguf::quants::lanes::{Lanes, lane, nearest, table};

/// The numbers in which the three formats differ.
struct Settings {
    /// Without importance.
    trials: Trials,
    /// The highest quantized scale.
    scale_top: f32,
    /// The mean square of the super-block counts this much in the weights.
    energy: f32,
}

pub(super) struct Q2K;
pub(super) struct Q4K;
pub(super) struct Q5K;

impl BlockEncoder for Q2K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 84;

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let trials = Trials { top: 3.0, first: -0.5, step: 0.1, last: 15, absolute: true };
        let settings = Settings { trials, scale_top: 15.0, energy: 1.0 };
        encode::<V, 16, 16>(group, &settings, |numbers, block| pack_q2(numbers, block, out))
    }
}

impl BlockEncoder for Q4K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let trials = Trials { top: 15.0, first: -1.0, step: 0.1, last: 20, absolute: false };
        let settings = Settings { trials, scale_top: 63.0, energy: 2.0 };
        encode::<V, 32, 8>(group, &settings, |numbers, block| pack_q4(numbers, block, out))
    }
}

impl BlockEncoder for Q5K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let trials = Trials { top: 31.0, first: -0.5, step: 0.1, last: 15, absolute: false };
        let settings = Settings { trials, scale_top: 63.0, energy: 2.0 };
        encode::<V, 32, 8>(group, &settings, |numbers, block| pack_q5(numbers, block, out))
    }
}

/// What the search found for a super-block of S sub-blocks.
struct Fitted<const S: usize> {
    /// As C's `uint8_t` has them, not yet limited.
    scales: [u8; S],
    mins: [u8; S],
    scale: f16,
    min: f16,
    /// Of each sub-block's own fit.
    inverse: [f32; S],
    offset: [f32; S],
    /// The index of the super-block in the group.
    index: usize,
    /// Found without importance.
    limited: bool,
}

#[inline(always)]
fn encode<V: Lanes, const N: usize, const S: usize>(
    group: &BlockGroup<'_, V>,
    settings: &Settings,
    mut pack: impl FnMut(&[f32; 256], &Fitted<S>),
) -> V::Mask {
    let mut refused = V::none();
    let zero = V::splat(0.0);
    let energy = sum_of_squares(group.x).mul(V::splat(settings.energy)).mul(V::splat(1.0 / 256.0));
    let mut fits = [MinFit { scale: zero, min: zero, inverse: zero, offset: zero }; S];
    let mut sums = [zero; S];
    for (sub, x) in group.x.as_chunks::<N>().0.iter().enumerate() {
        fits[sub] = if let Some(importance) = group.importance {
            let weights = importance_weights(&importance[sub * N..], energy, x);
            sums[sub] = sum(&weights);
            let trials = Trials { first: -0.9, step: 0.05, last: 36, absolute: false, ..settings.trials };
            fit_min(x, &weights, trials, &mut refused)
        } else {
            let mean = if settings.trials.absolute { zero } else { sum_of_squares(x).mul(V::splat(1.0 / N as f32)).sqrt() };
            let mut weights = *x;
            for weight in &mut weights {
                *weight = mean.add(weight.abs());
            }
            fit_min(x, &weights, settings.trials, &mut refused)
        };
    }
    let (mut scales, mut mins, mut inverse, mut offset) = ([zero; S], [zero; S], [zero; S], [zero; S]);
    for (sub, fit) in fits.iter().enumerate() {
        (scales[sub], mins[sub], inverse[sub], offset[sub]) = (fit.scale, fit.min, fit.inverse, fit.offset);
    }
    let (inverse, offset) = (table(&inverse), table(&offset));
    let blocks = group.numbers.as_chunks::<256>().0.iter().enumerate();
    if group.importance.is_some() {
        let (d, levels) = fit_scales(&scales, &sums, settings.scale_top, &mut refused);
        let (dmin, min_levels) = fit_scales(&mins, &sums, settings.scale_top, &mut refused);
        let (d, dmin, levels, min_levels) = (table(&[d]), table(&[dmin]), table(&levels), table(&min_levels));
        for (index, numbers) in blocks {
            let [scale, min] = [&d, &dmin].map(|table| f16::from_f32(table[0][index]));
            let [scales, mins] = [&levels, &min_levels].map(|levels| lane(levels, index).map(|level| level as u8));
            pack(
                numbers,
                &Fitted { scales, mins, scale, min, inverse: lane(&inverse, index), offset: lane(&offset, index), index, limited: false },
            );
        }
    } else {
        let (scales, mins) = (table(&scales), table(&mins));
        for (index, numbers) in blocks {
            let [(scale, scales), (min, mins)] = [&scales, &mins].map(|table| quantized_scales(&lane(table, index), settings.scale_top));
            pack(
                numbers,
                &Fitted { scales, mins, scale, min, inverse: lane(&inverse, index), offset: lane(&offset, index), index, limited: true },
            );
        }
    }
    refused
}

/// Scales as multiples of their largest.
#[inline(always)]
fn quantized_scales<const S: usize>(scales: &[f32; S], top: f32) -> (f16, [u8; S]) {
    let mut largest = 0.0;
    for scale in scales {
        largest = if *scale > largest { *scale } else { largest };
    }
    if largest > 0.0 {
        let inverse = top / largest;
        let mut levels = [0; S];
        for (level, scale) in levels.iter_mut().zip(scales) {
            *level = nearest(inverse * scale) as u8;
        }
        (f16::from_f32(largest / top), levels)
    } else {
        (f16::ZERO, [0; S])
    }
}

/// The levels of all numbers for the quantized scales. A sub-block whose scale became zero keeps those of its own fit.
#[inline(always)]
fn levels<const N: usize, const S: usize>(
    numbers: &[f32; 256],
    block: &Fitted<S>,
    top: i32,
    scale_and_min: impl Fn(usize) -> (u8, u8),
) -> [u8; 256] {
    let mut levels = [0; 256];
    let (scale, min) = (block.scale.to_f32(), block.min.to_f32());
    for sub in 0..S {
        let (numbers, levels) = (&numbers.as_chunks::<N>().0[sub], &mut levels.as_chunks_mut::<N>().0[sub]);
        let (scale_level, min_level) = scale_and_min(sub);
        let d = scale * f32::from(scale_level);
        if d == 0.0 {
            let (inverse, offset) = (block.inverse[sub], block.offset[sub]);
            for (level, number) in levels.iter_mut().zip(numbers) {
                *level = nearest(inverse * (number - offset)).min(top).max(0) as u8;
            }
        } else {
            let dm = min * f32::from(min_level);
            for (level, number) in levels.iter_mut().zip(numbers) {
                *level = nearest((number + dm) / d).min(top).max(0) as u8;
            }
        }
    }
    levels
}

/// Two bits of each of four quarters of 128 levels in a byte.
#[inline(always)]
pub(super) fn pack_two_bits(levels: &[u8; 256], out: &mut [u8]) {
    for (levels, out) in levels.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for i in 0..32 {
            out[i] = levels[i] | levels[i + 32] << 2 | levels[i + 64] << 4 | levels[i + 96] << 6;
        }
    }
}

#[inline(always)]
fn pack_q2(numbers: &[f32; 256], block: &Fitted<16>, out: &mut [u8]) {
    let out = &mut out[block.index * 84..][..84];
    let both: [u8; 16] = array::from_fn(|sub| block.scales[sub] | block.mins[sub] << 4);
    let levels = levels::<16, 16>(numbers, block, 3, |sub| (both[sub] & 15, both[sub] >> 4));
    out[..16].copy_from_slice(&both);
    pack_two_bits(&levels, &mut out[16..80]);
    out[80..82].copy_from_slice(&block.scale.to_le_bytes());
    out[82..].copy_from_slice(&block.min.to_le_bytes());
}

/// Eight scales and minima of six bits in twelve bytes.
#[inline(always)]
fn pack_scales(block: &Fitted<8>, limit: u8) -> [u8; 12] {
    let mut out = [0; 12];
    for sub in 0..8 {
        let (scale, min) = (block.scales[sub].min(limit), block.mins[sub].min(limit));
        if sub < 4 {
            out[sub] = scale;
            out[sub + 4] = min;
        } else {
            out[sub + 4] = scale & 15 | (min & 15) << 4;
            out[sub - 4] |= scale >> 4 << 6;
            out[sub] |= min >> 4 << 6;
        }
    }
    out
}

/// ggml's `get_scale_min_k4`.
#[inline(always)]
pub(super) fn unpack_scale(sub: usize, packed: &[u8]) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        (packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4, packed[sub + 4] >> 4 | packed[sub] >> 6 << 4)
    }
}

/// The lower four bits of 32 levels and of the 32 after them.
#[inline(always)]
fn pack_four_bits(levels: &[u8; 256], out: &mut [u8]) {
    for (levels, out) in levels.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for i in 0..32 {
            out[i] = levels[i] & 15 | levels[i + 32] << 4;
        }
    }
}

#[inline(always)]
fn pack_q4(numbers: &[f32; 256], block: &Fitted<8>, out: &mut [u8]) {
    let out = &mut out[block.index * 144..][..144];
    // With importance ggml does not limit them: it packs the wrapped bytes of negative levels as they are.
    let scales = pack_scales(block, if block.limited { 63 } else { u8::MAX });
    let levels = levels::<32, 8>(numbers, block, 15, |sub| unpack_scale(sub, &scales));
    out[..2].copy_from_slice(&block.scale.to_le_bytes());
    out[2..4].copy_from_slice(&block.min.to_le_bytes());
    out[4..16].copy_from_slice(&scales);
    pack_four_bits(&levels, &mut out[16..]);
}

#[inline(always)]
fn pack_q5(numbers: &[f32; 256], block: &Fitted<8>, out: &mut [u8]) {
    let out = &mut out[block.index * 176..][..176];
    let scales = pack_scales(block, 63);
    let levels = levels::<32, 8>(numbers, block, 31, |sub| unpack_scale(sub, &scales));
    out[..2].copy_from_slice(&block.scale.to_le_bytes());
    out[2..4].copy_from_slice(&block.min.to_le_bytes());
    out[4..16].copy_from_slice(&scales);
    let (high, low) = out[16..].split_at_mut(32);
    high.fill(0);
    for (i, high) in high.iter_mut().enumerate() {
        for sub in 0..8 {
            *high |= levels[sub * 32 + i] >> 4 << sub;
        }
    }
    pack_four_bits(&levels, low);
}
