//! Decodes every tensor type to float32, as `dequantize_row_*` in ggml-quants.c of llama.cpp (MIT) does, bit for bit.

use half::{bf16, f16};

use crate::gguf::quants::iq4::VALUES;
use crate::gguf::quants::with_min::unpack_scale;
use crate::gguf::types::Format;

/// Decodes whole blocks. `numbers` has as many places as the bytes have elements.
pub(crate) fn decode(format: Format, bytes: &[u8], numbers: &mut [f32]) {
    debug_assert_eq!(format.bytes(numbers.len()), Some(bytes.len()));
    let (elements, size) = format.block();
    let blocks = bytes.chunks_exact(size).zip(numbers.chunks_exact_mut(elements));
    match format {
        Format::F32 => blocks.for_each(|(bytes, number)| number[0] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        Format::F16 => blocks.for_each(|(bytes, number)| number[0] = half(bytes)),
        Format::BF16 => blocks.for_each(|(bytes, number)| number[0] = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()),
        Format::Q8_0 => blocks.for_each(|(block, out)| {
            let d = half(block);
            out.iter_mut().zip(&block[2..]).for_each(|(out, level)| *out = d * f32::from(level.cast_signed()));
        }),
        Format::Q4_0 => blocks.for_each(|(block, out)| {
            nibbles(&block[2..], out, |level, _| f32::from(level) - 8.0, half(block), None);
        }),
        Format::Q4_1 => blocks.for_each(|(block, out)| {
            nibbles(&block[4..], out, |level, _| f32::from(level), half(block), Some(half(&block[2..])));
        }),
        Format::Q5_0 => blocks.for_each(|(block, out)| {
            nibbles(&block[6..], out, |level, i| f32::from(level | fifth(&block[2..6], i)) - 16.0, half(block), None);
        }),
        Format::Q5_1 => blocks.for_each(|(block, out)| {
            nibbles(&block[8..], out, |level, i| f32::from(level | fifth(&block[4..8], i)), half(block), Some(half(&block[2..])));
        }),
        Format::IQ4_NL => blocks.for_each(|(block, out)| {
            nibbles(&block[2..], out, |level, _| f32::from(VALUES[level as usize]), half(block), None);
        }),
        Format::IQ4_XS => blocks.for_each(|(block, out)| iq4_xs(block, out)),
        Format::Q2_K => blocks.for_each(|(block, out)| q2_k(block, out)),
        Format::Q3_K => blocks.for_each(|(block, out)| q3_k(block, out)),
        Format::Q4_K => blocks.for_each(|(block, out)| q4_k(block, out)),
        Format::Q5_K => blocks.for_each(|(block, out)| q5_k(block, out)),
        Format::Q6_K => blocks.for_each(|(block, out)| q6_k(block, out)),
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The fifth bit of a level, in its place.
fn fifth(bits: &[u8], index: usize) -> u8 {
    (bits[index / 8] >> (index % 8) & 1) << 4
}

/// 32 numbers from 16 bytes: first all lower halves, then all upper halves.
fn nibbles(bytes: &[u8], out: &mut [f32], level: impl Fn(u8, usize) -> f32, scale: f32, add: Option<f32>) {
    for (i, out) in out.iter_mut().enumerate() {
        let nibble = if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 };
        let scaled = scale * level(nibble, i);
        *out = add.map_or(scaled, |add| scaled + add);
    }
}

fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let low = block[4 + sub / 2] >> (4 * (sub % 2)) & 15;
        let scale = i32::from(low) | i32::from(high >> (2 * sub) & 3) << 4;
        nibbles(&block[8 + 16 * sub..], out, |level, _| f32::from(VALUES[level as usize]), half(block) * (scale - 32) as f32, None);
    }
}

fn q2_k(block: &[u8], out: &mut [f32]) {
    let (d, min) = (half(&block[80..]), half(&block[82..]));
    for (sub, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = block[sub];
        let (dl, ml) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
        for (i, out) in out.iter_mut().enumerate() {
            *out = dl * f32::from(two_bits(&block[16..80], 16 * sub + i)) - ml;
        }
    }
}

/// A level of two bits.
fn two_bits(bytes: &[u8], index: usize) -> u8 {
    let (half, within) = (index / 128, index % 128);
    bytes[32 * half + within % 32] >> (2 * (within / 32)) & 3
}

fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, scales, d) = (&block[..32], &block[96..108], half(&block[108..]));
    for (sub, out) in out.chunks_exact_mut(16).enumerate() {
        let low = if sub < 8 { scales[sub] & 15 } else { scales[sub - 8] >> 4 };
        let scale = low | (scales[8 + sub % 4] >> (2 * (sub / 4)) & 3) << 4;
        let dl = d * f32::from(scale.cast_signed() - 32);
        for (i, out) in out.iter_mut().enumerate() {
            let index = 16 * sub + i;
            let below = if high[index % 32] >> (index / 32) & 1 == 1 { 0 } else { 4 };
            *out = dl * f32::from(two_bits(&block[32..96], index).cast_signed() - below);
        }
    }
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, min) = (half(block), half(&block[2..]));
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min_level) = unpack_scale(sub, &block[4..16]);
        let (dl, ml) = (d * f32::from(scale), min * f32::from(min_level));
        let bytes = &block[16 + 32 * (sub / 2)..];
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = dl * f32::from(byte >> (4 * (sub % 2)) & 15) - ml;
        }
    }
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, min) = (half(block), half(&block[2..]));
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min_level) = unpack_scale(sub, &block[4..16]);
        let (dl, ml) = (d * f32::from(scale), min * f32::from(min_level));
        let bytes = &block[48 + 32 * (sub / 2)..];
        for (i, out) in out.iter_mut().enumerate() {
            let level = bytes[i] >> (4 * (sub % 2)) & 15 | (block[16 + i] >> sub & 1) << 4;
            *out = dl * f32::from(level) - ml;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for (index, out) in out.iter_mut().enumerate() {
        let (half, within) = (index / 128, index % 128);
        let (quarter, i) = (within / 32, within % 32);
        let nibble = low[64 * half + 32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
        let level = nibble | (high[32 * half + i] >> (2 * quarter) & 3) << 4;
        *out = d * f32::from(scales[index / 16].cast_signed()) * f32::from(level.cast_signed() - 32);
    }
}
