//! `IQ4_NL` and `IQ4_XS`: levels that are an index into a table of 16 unequally spaced values.
//!
//! After `quantize_row_iq4_nl_impl` in ggml-quants.c of llama.cpp (MIT).
#![allow(clippy::inline_always)]

use half::f16;

use crate::gguf::quants::fit::{ZERO, importance_weights, largest, products, sum_of_squares};
use crate::gguf::quants::groups::{BlockEncoder, BlockGroup};
use crate::gguf::quants::lanes::{Lanes, lane, nearest, table};
use crate::gguf::quants::symmetric::largest_scale;

pub(super) struct Iq4Nl;
pub(super) struct Iq4Xs;

/// ggml's `kvalues_iq4nl`.
pub(super) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The borders between neighbouring values. ggml compares `x - low < high - x`; near a border both sides are exact, so that this is
/// `x < border`.
const BORDERS: [f32; 15] = {
    let mut borders = [0.0; 15];
    let mut index = 0;
    while index < 15 {
        borders[index] = f32::midpoint(VALUES[index] as f32, VALUES[index + 1] as f32);
        index += 1;
    }
    borders
};

/// Trials on each side of the first scale.
const TRIALS: i8 = 7;

/// The nearest value.
#[inline(always)]
fn value<V: Lanes>(x: V) -> V {
    let mut value = V::splat(f32::from(VALUES[15]));
    for index in (0..15).rev() {
        value = V::select(x.lt(V::splat(BORDERS[index])), V::splat(f32::from(VALUES[index])), value);
    }
    value
}

/// The index of the nearest value.
#[inline(always)]
fn index(x: f32) -> u8 {
    let mut index = 15;
    for border in BORDERS {
        index -= i32::from(x < border);
    }
    index as u8
}

/// Σ weight·value·x and Σ weight·value² for a scale.
#[inline(always)]
fn sums<V: Lanes>(x: &[V; 32], weights: &[V; 32], inverse: V) -> (V, V) {
    let (mut sum_qx, mut sum_q2) = (V::splat(0.0), V::splat(0.0));
    for i in 0..32 {
        let q = value(inverse.mul(x[i]));
        let weighted = weights[i].mul(q);
        sum_qx = sum_qx.add(weighted.mul(x[i]));
        sum_q2 = sum_q2.add(weighted.mul(q));
    }
    (sum_qx, sum_q2)
}

/// The best scale of 32 numbers.
#[inline(always)]
fn fit<V: Lanes>(x: &[V; 32], weights: &[V; 32], refused: &mut V::Mask) -> V {
    let zero = V::splat(0.0);
    let first = f32::from(VALUES[0]);
    let (max, magnitude) = largest(x);
    let empty = magnitude.lt(V::splat(ZERO));
    *refused = V::or(*refused, V::not(V::or(empty, magnitude.lt(V::splat(1e30)))));
    let (sum_qx, sum_q2) = sums(x, weights, V::splat(1.0).div(max.neg().div(V::splat(first))));
    let mut scale = V::select(zero.lt(sum_q2), sum_qx.div(sum_q2), zero);
    let mut best = scale.mul(sum_qx);
    for trial in -TRIALS..=TRIALS {
        let (sum_qx, sum_q2) = sums(x, weights, V::splat(f32::from(trial) + first).div(max));
        let better = V::and(zero.lt(sum_q2), best.mul(sum_q2).lt(sum_qx.mul(sum_qx)));
        scale = V::select(better, sum_qx.div(sum_q2), scale);
        best = V::select(better, scale.mul(sum_qx), best);
    }
    V::select(empty, zero, scale)
}

/// The scales of all blocks of 32 numbers in a (super-)block.
#[inline(always)]
fn fits<V: Lanes, const S: usize>(group: &BlockGroup<'_, V>, refused: &mut V::Mask) -> [V; S] {
    let energy = sum_of_squares(group.x).mul(V::splat(2.0 / (32 * S) as f32));
    let mut scales = [V::splat(0.0); S];
    for (block, (x, scale)) in group.x.as_chunks::<32>().0.iter().zip(&mut scales).enumerate() {
        let weights = match group.importance {
            Some(importance) => importance_weights(&importance[32 * block..], energy, x),
            None => products(x, x),
        };
        *scale = fit(x, &weights, refused);
    }
    scales
}

/// Indices of 32 numbers, two in a byte.
#[inline(always)]
fn pack(numbers: &[f32; 32], inverse: f32, out: &mut [u8]) {
    let mut indices = [0; 32];
    for (place, number) in indices.iter_mut().zip(numbers) {
        *place = index(inverse * number);
    }
    for (i, out) in out.iter_mut().enumerate() {
        *out = indices[i] | indices[i + 16] << 4;
    }
}

#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

impl BlockEncoder for Iq4Nl {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let mut refused = V::none();
        let scales = table(&fits::<V, 1>(group, &mut refused));
        for (index, (numbers, out)) in group.numbers.as_chunks().0.iter().zip(out.as_chunks_mut::<18>().0).enumerate() {
            let scale = scales[0][index];
            out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            pack(numbers, inverse(scale), &mut out[2..]);
        }
        refused
    }
}

impl BlockEncoder for Iq4Xs {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 136;

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let mut refused = V::none();
        let scales = table(&fits::<V, 8>(group, &mut refused));
        for (index, (numbers, out)) in group.numbers.as_chunks::<256>().0.iter().zip(out.as_chunks_mut::<136>().0).enumerate() {
            let scales = lane(&scales, index);
            let d = -largest_scale(&scales) / 32.0;
            let id = inverse(d);
            out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            out[4..8].fill(0);
            let mut high = 0_u16;
            for (block, (numbers, scale)) in numbers.as_chunks().0.iter().zip(scales).enumerate() {
                let level = nearest(id * scale).clamp(-32, 31);
                pack(numbers, inverse(d * level as f32), &mut out[8 + 16 * block..][..16]);
                let level = (level + 32) as u16;
                out[4 + block / 2] |= ((level & 15) as u8) << (4 * (block % 2));
                high |= level >> 4 << (2 * block);
            }
            out[2..4].copy_from_slice(&high.to_le_bytes());
        }
        refused
    }
}
