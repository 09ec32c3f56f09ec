//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`: blocks of 32 numbers with a scale and, in the last of each pair, a minimum.
//!
//! After `quantize_row_q4_0_ref` and `quantize_row_q4_0_impl` (with importance) and their like in ggml-quants.c of llama.cpp (MIT).
#![allow(clippy::inline_always)]

use std::cmp::Ordering;

use half::f16;

use crate::gguf::quants::fit::{Trials, fit_min, fit_symmetric, importance_weights};
use crate::gguf::quants::groups::{BlockEncoder, BlockGroup};
use crate::gguf::quants::lanes::{Lanes, lane, nearest, table};

const N: usize = 32;

/// A block format with one scale for 32 numbers, of four bits or (`FIVE`) five.
pub(super) struct Scaled<const FIVE: bool>;

/// A block format with a scale and a minimum for 32 numbers.
pub(super) struct WithMin<const FIVE: bool>;

impl<const FIVE: bool> BlockEncoder for Scaled<FIVE> {
    const ELEMENTS: usize = N;
    const BYTES: usize = if FIVE { 22 } else { 18 };
    const USES_ROW: bool = true;
    const DIRECT: bool = true;

    #[inline(always)]
    fn encode_directly(numbers: &[f32], out: &mut [u8]) {
        encode_scaled::<FIVE>(numbers, out);
    }

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let mut refused = V::none();
        let top = if FIVE { 16 } else { 8 };
        let fit = fit_symmetric(x(group), &weights(group), top as f32, &mut refused);
        let (scale, inverse) = (table(&[fit.scale]), table(&[fit.inverse]));
        for (index, (numbers, out)) in group.numbers.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(Self::BYTES)).enumerate() {
            let inverse = inverse[0][index];
            let mut levels = [0; N];
            if inverse.is_finite() {
                for (level, number) in levels.iter_mut().zip(numbers) {
                    *level = (nearest(inverse * number).min(top - 1).max(-top) + top) as u8;
                }
            }
            pack::<FIVE>(&[f16::from_f32(scale[0][index])], &levels, out);
        }
        refused
    }
}

impl<const FIVE: bool> BlockEncoder for WithMin<FIVE> {
    const ELEMENTS: usize = N;
    const BYTES: usize = if FIVE { 24 } else { 20 };
    const USES_ROW: bool = true;
    const DIRECT: bool = true;

    #[inline(always)]
    fn encode_directly(numbers: &[f32], out: &mut [u8]) {
        encode_with_min::<FIVE>(numbers, out);
    }

    #[inline(always)]
    fn encode<V: Lanes>(group: &BlockGroup<'_, V>, out: &mut [u8]) -> V::Mask {
        let mut refused = V::none();
        let top = if FIVE { 31 } else { 15 };
        let trials = Trials { top: top as f32, first: -0.9, step: 0.05, last: 36, absolute: false };
        let fit = fit_min(x(group), &weights(group), trials, &mut refused);
        let found = table(&[fit.scale, fit.min, fit.inverse, fit.offset]);
        for (index, (numbers, out)) in group.numbers.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(Self::BYTES)).enumerate() {
            let [scale, min, inverse, offset] = lane(&found, index);
            let mut levels = [0; N];
            for (level, number) in levels.iter_mut().zip(numbers) {
                *level = nearest(inverse * (number - offset)).min(top).max(0) as u8;
            }
            pack::<FIVE>(&[f16::from_f32(scale), f16::from_f32(-min)], &levels, out);
        }
        refused
    }
}

#[inline(always)]
fn x<'a, V>(group: &BlockGroup<'a, V>) -> &'a [V; N] {
    &group.x.as_chunks().0[0]
}

#[inline(always)]
fn weights<V: Lanes>(group: &BlockGroup<'_, V>) -> [V; N] {
    importance_weights(group.importance.unwrap_or(&[]), group.row_energy, x(group))
}

/// Least and greatest number, of equal ones the first.
#[inline(always)]
fn extremes(x: &[f32; N]) -> (f32, f32) {
    // Integers in the order of the numbers, which the compiler vectorizes.
    let (mut least, mut greatest) = (i32::MAX, i32::MIN);
    for number in x {
        let bits = number.to_bits().cast_signed();
        let ordered = bits ^ (bits >> 31 & i32::MAX);
        least = least.min(ordered);
        greatest = greatest.max(ordered);
    }
    let number = |ordered: i32| f32::from_bits((ordered ^ (ordered >> 31 & i32::MAX)).cast_unsigned());
    let (mut least, mut greatest) = (number(least), number(greatest));
    // Zeros of both signs are equal.
    if least == 0.0 || greatest == 0.0 {
        let first = x.iter().copied().find(|number| *number == 0.0).unwrap_or(0.0);
        least = if least == 0.0 { first } else { least };
        greatest = if greatest == 0.0 { first } else { greatest };
    }
    (least, greatest)
}

/// Without importance: the number of largest magnitude becomes the lowest level.
#[inline(always)]
fn encode_scaled<const FIVE: bool>(numbers: &[f32], out: &mut [u8]) {
    let (top, limit) = if FIVE { (16.0, 31) } else { (8.0, 15) };
    let bytes = Scaled::<FIVE>::BYTES;
    for (x, out) in numbers.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(bytes)) {
        let (least, greatest) = extremes(x);
        let finite = least.is_finite() && greatest.is_finite();
        let max = match (greatest + least).partial_cmp(&0.0) {
            Some(Ordering::Greater) => greatest,
            Some(Ordering::Less) => least,
            // Of equal magnitudes ggml takes the first; of zeros none, so it starts from +0.
            _ => x.iter().copied().find(|number| *number != 0.0 && number.abs() >= greatest).unwrap_or(0.0),
        };
        let d = max / -top;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let mut levels = [0; N];
        if finite && inverse.is_finite() {
            for (level, x) in levels.iter_mut().zip(x) {
                // SAFETY: x is a number, at most `max` in magnitude, so the sum is between 0 and 2 · top + 1.
                let rounded: i32 = unsafe { (x * inverse + (top + 0.5)).to_int_unchecked() };
                *level = (rounded as i8).min(limit).cast_unsigned();
            }
        } else {
            for (level, x) in levels.iter_mut().zip(x) {
                *level = (to_int(x * inverse + (top + 0.5)) as i8).min(limit).cast_unsigned();
            }
        }
        pack::<FIVE>(&[f16::from_f32(d)], &levels, out);
    }
}

/// Without importance: the least number becomes the lowest level, the greatest the highest.
#[inline(always)]
fn encode_with_min<const FIVE: bool>(numbers: &[f32], out: &mut [u8]) {
    let bytes = WithMin::<FIVE>::BYTES;
    for (x, out) in numbers.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(bytes)) {
        let (min, max) = extremes(x);
        let d = (max - min) / if FIVE { 31.0 } else { 15.0 };
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let mut levels = [0; N];
        if min.is_finite() && d.is_finite() && inverse.is_finite() {
            for (level, x) in levels.iter_mut().zip(x) {
                // SAFETY: x is a number between min and max, so the sum is between 0 and 32.
                let rounded: i32 = unsafe { ((x - min) * inverse + 0.5).to_int_unchecked() };
                *level = if FIVE { rounded as u8 } else { rounded.min(15) as u8 };
            }
        } else {
            for (place, x) in levels.iter_mut().zip(x) {
                let level = to_int((x - min) * inverse + 0.5) as u8;
                // ggml limits the levels of Q4_1 as signed bytes, and those of Q5_1 not at all.
                *place = if FIVE { level } else { level.cast_signed().min(15).cast_unsigned() };
            }
        }
        pack::<FIVE>(&[f16::from_f32(d), f16::from_f32(min)], &levels, out);
    }
}

/// A conversion to `int` as x86 processors do it: what does not fit becomes the least integer.
#[inline(always)]
fn to_int(number: f32) -> i32 {
    if number.abs() < 2_147_483_648.0 { number as i32 } else { i32::MIN }
}

/// The scale (and minimum), the fifth bits, and the lower four bits of two halves.
#[inline(always)]
fn pack<const FIVE: bool>(scales: &[f16], levels: &[u8; N], out: &mut [u8]) {
    let (first, mut rest) = out.split_at_mut(2 * scales.len());
    for (out, scale) in first.as_chunks_mut().0.iter_mut().zip(scales) {
        *out = scale.to_le_bytes();
    }
    if FIVE {
        let mut fifth = 0_u32;
        for (i, level) in levels.iter().enumerate() {
            fifth |= u32::from(level >> 4 & 1) << i;
        }
        let (place, after) = rest.split_at_mut(4);
        place.copy_from_slice(&fifth.to_le_bytes());
        rest = after;
        for (i, out) in rest.iter_mut().enumerate() {
            *out = levels[i] & 15 | (levels[i + 16] & 15) << 4;
        }
    } else {
        for (i, out) in rest.iter_mut().enumerate() {
            *out = levels[i] | levels[i + 16] << 4;
        }
    }
}
