//! Encodes stored numbers as the bytes of a GGUF tensor, bit-identical to `gguf.quants` in Python.
//!
//! * F16: rounded to nearest, ties to even; a NaN keeps its payload's upper bits. BF16 likewise, and a NaN becomes quiet.
//! * `Q8_0`: blocks of 32 numbers; scale d = max|x| / 127 in float32, written as float16, then x · (1/d) rounded half away
//!   from zero. (llama.cpp's `quantize_row_q8_0_ref`.)
//!
//! The loops are compiled twice, for any processor and for AVX2, so that the compiler vectorizes both: hence every part of them
//! is inlined.
#![allow(clippy::inline_always)]

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::gguf::quants::{self, Form, Rows};
use crate::gguf::safetensors_file::StoredType;
use crate::gguf::types::Format;

/// Numbers converted at a time: a multiple of every block, small enough for the L1 cache.
const STAGE: usize = 1024;
const Q8_0_BLOCK: usize = Format::Q8_0.block().0;
const Q8_0_BYTES: usize = Format::Q8_0.block().1;

/// Converts little-endian elements; `out` has exactly the length that they need in `format`.
pub(crate) fn encode(stored: StoredType, data: &[u8], format: Format, out: &mut [u8]) {
    debug_assert_eq!(format.bytes(data.len() / stored.bytes()), Some(out.len()));
    if matches!((stored, format), (StoredType::F32, Format::F32) | (StoredType::F16, Format::F16)) {
        out.copy_from_slice(data);
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { encode_avx2(stored, data, format, out) };
        return;
    }
    encode_staged(stored, data, format, out);
}

/// Encodes rows of float32 numbers in any format.
pub(crate) fn encode_rows(format: Format, rows: Rows<'_>, form: Form, out: &mut [u8]) {
    debug_assert_eq!(format.bytes(rows.numbers.len()), Some(out.len()));
    if quants::is_searched(format) {
        quants::encode_rows(format, rows, form, out);
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if form != Form::Plain {
        // SAFETY: all forms but the plain one need AVX2.
        unsafe { encode_numbers_avx2(rows.numbers, format, out) };
        return;
    }
    write_numbers(rows.numbers, format, out);
}

/// Whether a tensor's bytes have no infinity and no NaN; for blocks, in their scales.
pub(crate) fn all_finite(format: Format, bytes: &[u8]) -> bool {
    // Not finite: all bits of the exponent are set. No early exit, so that the compiler vectorizes the loop.
    let halves =
        |exponent: u16| bytes.as_chunks().0.iter().fold(true, |finite, half| finite & (u16::from_le_bytes(*half) & exponent != exponent));
    match format {
        Format::F32 => {
            bytes.as_chunks().0.iter().fold(true, |finite, one| finite & (u32::from_le_bytes(*one) & 0x7f80_0000 != 0x7f80_0000))
        }
        Format::F16 => halves(0x7c00),
        Format::BF16 => halves(0x7f80),
        // Where a block has two scales, the second follows the first.
        _ => {
            let (size, at) = (format.block().1, format.scale_offset());
            let two = matches!(format, Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::Q4_K | Format::Q5_K);
            let finite = |block: &[u8], at: usize| u16::from_le_bytes([block[at], block[at + 1]]) & 0x7c00 != 0x7c00;
            bytes.chunks_exact(size).all(|block| finite(block, at) && (!two || finite(block, at + 2)))
        }
    }
}

/// Rounds numbers to float16 and back.
pub(crate) fn round_to_half(numbers: &mut [f32]) {
    let mut halves = [f16::ZERO; STAGE];
    for numbers in numbers.chunks_mut(STAGE) {
        let halves = &mut halves[..numbers.len()];
        halves.convert_from_f32_slice(numbers);
        halves.convert_to_f32_slice(numbers);
    }
}

/// Stored elements as float32, which represents each of them exactly.
#[inline(always)]
pub(crate) fn decode(stored: StoredType, data: &[u8], numbers: &mut [f32]) {
    debug_assert_eq!(data.len(), numbers.len() * stored.bytes());
    match stored {
        StoredType::F32 => {
            for (number, bytes) in numbers.iter_mut().zip(data.as_chunks().0) {
                *number = f32::from_le_bytes(*bytes);
            }
        }
        StoredType::BF16 => {
            for (number, bytes) in numbers.iter_mut().zip(data.as_chunks().0) {
                *number = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        StoredType::F16 => {
            let mut halves = [f16::ZERO; STAGE];
            for (numbers, data) in numbers.chunks_mut(STAGE).zip(data.chunks(2 * STAGE)) {
                let halves = &mut halves[..numbers.len()];
                for (half, bytes) in halves.iter_mut().zip(data.as_chunks().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                halves.convert_to_f32_slice(numbers);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn encode_avx2(stored: StoredType, data: &[u8], format: Format, out: &mut [u8]) {
    encode_staged(stored, data, format, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn encode_numbers_avx2(numbers: &[f32], format: Format, out: &mut [u8]) {
    write_numbers(numbers, format, out);
}

#[inline(always)]
fn encode_staged(stored: StoredType, data: &[u8], format: Format, out: &mut [u8]) {
    let (block, block_bytes) = format.block();
    let mut numbers = [0.0; STAGE];
    for (data, out) in data.chunks(STAGE * stored.bytes()).zip(out.chunks_mut(STAGE / block * block_bytes)) {
        let numbers = &mut numbers[..data.len() / stored.bytes()];
        decode(stored, data, numbers);
        write_numbers(numbers, format, out);
    }
}

#[inline(always)]
fn write_numbers(numbers: &[f32], format: Format, out: &mut [u8]) {
    match format {
        Format::F32 => {
            for (bytes, number) in out.as_chunks_mut().0.iter_mut().zip(numbers) {
                *bytes = number.to_le_bytes();
            }
        }
        Format::BF16 => {
            for (bytes, number) in out.as_chunks_mut().0.iter_mut().zip(numbers) {
                *bytes = bf16(*number).to_le_bytes();
            }
        }
        Format::F16 => {
            let mut halves = [f16::ZERO; STAGE];
            for (numbers, out) in numbers.chunks(STAGE).zip(out.chunks_mut(2 * STAGE)) {
                let halves = &mut halves[..numbers.len()];
                halves.convert_from_f32_slice(numbers);
                if numbers.iter().any(|number| number.is_nan()) {
                    for (half, number) in halves.iter_mut().zip(numbers).filter(|(_, number)| number.is_nan()) {
                        *half = nan_as_numpy(*number);
                    }
                }
                for (bytes, half) in out.as_chunks_mut().0.iter_mut().zip(&*halves) {
                    *bytes = half.to_le_bytes();
                }
            }
        }
        // The others are encoded row by row, in `quants`.
        _ => {
            debug_assert_eq!(format, Format::Q8_0);
            for (out, numbers) in out.as_chunks_mut().0.iter_mut().zip(numbers.as_chunks().0) {
                q8_0(numbers, out);
            }
        }
    }
}

/// A NaN as float16, with the upper bits of its payload, as in `NumPy`. (Processors would also make it quiet.)
fn nan_as_numpy(number: f32) -> f16 {
    let bits = number.to_bits();
    let payload = (bits >> 13 & 0x3ff) as u16;
    f16::from_bits((bits >> 16 & 0x8000) as u16 | 0x7c00 | payload.max(1))
}

#[inline(always)]
fn bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if number.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

#[inline(always)]
fn q8_0(numbers: &[f32; Q8_0_BLOCK], out: &mut [u8; Q8_0_BYTES]) {
    // Compares bits, so that a NaN is the maximum, as in NumPy.
    let largest = f32::from_bits(numbers.iter().fold(0, |largest, number| largest.max(number.abs().to_bits())));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let (scale, quants) = out.split_at_mut(2);
    let d16 = if d.is_nan() { f16::NAN } else { f16::from_f32(d) };
    scale.copy_from_slice(&d16.to_le_bytes());
    // NumPy converts values that are not finite to 0.
    if !(d.is_finite() && inverse.is_finite()) {
        quants.fill(0);
        return;
    }
    for (quant, number) in quants.iter_mut().zip(numbers) {
        *quant = (round_half_away(number * inverse) as i8).cast_unsigned();
    }
}

/// `f32::round` for small numbers, in operations that the compiler vectorizes.
#[inline(always)]
fn round_half_away(number: f32) -> f32 {
    let size = number.abs();
    let whole = size.floor();
    (whole + (2.0 * (size - whole)).floor()).copysign(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn encoded(stored: StoredType, data: &[u8], format: Format) -> Vec<u8> {
        let mut out = vec![0xee; format.bytes(data.len() / stored.bytes()).unwrap()];
        encode(stored, data, format, &mut out);
        out
    }

    /// The format's documented algorithm, one number at a time.
    fn plain_q8_0(numbers: &[f32]) -> Vec<u8> {
        let largest = numbers.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        let d = largest / 127.0;
        let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
        let mut out = f16::from_f32(d).to_bits().to_le_bytes().to_vec();
        out.extend(numbers.iter().map(|x| ((x * inverse).round() as i8).cast_unsigned()));
        out
    }

    /// Numbers of all magnitudes, and multiples of 0.5, which test rounding.
    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![
            -1e30_f32..1e30,
            -3.0_f32..3.0,
            -1e-20_f32..1e-20,
            (-254_i32..=254).prop_map(|half| half as f32 / 2.0),
            Just(0.0),
            Just(-0.0),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn q8_0_matches_the_documented_algorithm(numbers in prop::collection::vec(number(), 32 * 40)) {
            let expected: Vec<u8> = numbers.chunks(32).flat_map(plain_q8_0).collect();
            prop_assert_eq!(encoded(StoredType::F32, &bytes(&numbers), Format::Q8_0), expected);
        }

        #[test]
        fn the_error_of_q8_0_is_at_most_half_a_step(numbers in prop::collection::vec(-100.0_f32..100.0, 32)) {
            let out = encoded(StoredType::F32, &bytes(&numbers), Format::Q8_0);
            let d = f16::from_le_bytes([out[0], out[1]]).to_f32();
            for (number, quant) in numbers.iter().zip(&out[2..]) {
                // 2^-11 of 127 steps for the scale's own rounding.
                prop_assert!((number - d * f32::from(quant.cast_signed())).abs() <= d * (0.5 + 127.0 / 2048.0) * 1.001);
            }
        }

        #[test]
        fn halves_are_rounded_to_nearest(bits in prop::collection::vec(any::<u32>(), 1..3000)) {
            let numbers: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let (brains, halves) = (encoded(StoredType::F32, &bytes(&numbers), Format::BF16), encoded(StoredType::F32, &bytes(&numbers), Format::F16));
            for (index, number) in numbers.iter().enumerate() {
                let brain = half::bf16::from_le_bytes([brains[2 * index], brains[2 * index + 1]]);
                let half = f16::from_le_bytes([halves[2 * index], halves[2 * index + 1]]);
                prop_assert!(brain == half::bf16::from_f32(*number) || number.is_nan() && brain.is_nan());
                prop_assert!(half == f16::from_f32_const(*number) || number.is_nan() && half.is_nan());
            }
        }
    }

    #[test]
    fn every_16_bit_number_is_unchanged_after_conversion_to_32_bits_and_back() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (stored, back) in [(StoredType::F16, Format::F16), (StoredType::BF16, Format::BF16)] {
            let wide = encoded(stored, &all, Format::F32);
            let again = encoded(StoredType::F32, &wide, back);
            for (before, after) in all.as_chunks().0.iter().zip(again.as_chunks().0) {
                let (before, after) = (u16::from_le_bytes(*before), u16::from_le_bytes(*after));
                let nan = if stored == StoredType::F16 { f16::from_bits(before).is_nan() } else { half::bf16::from_bits(before).is_nan() };
                assert!(before == after || nan, "{before:#x} became {after:#x}");
            }
        }
    }

    #[test]
    fn a_single_number_that_is_not_finite_is_found_in_every_format() {
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0] {
            for (number, finite) in [(1.0, true), (65504.0, true), (f32::NAN, false), (f32::NEG_INFINITY, false)] {
                let mut numbers = [-0.5_f32; 96];
                numbers[70] = number;
                assert_eq!(all_finite(format, &encoded(StoredType::F32, &bytes(&numbers), format)), finite, "{format:?} {number}");
            }
        }
        let large = bytes(&[70000.0; 32]);
        assert!(!all_finite(Format::F16, &encoded(StoredType::F32, &large, Format::F16)));
        assert!(all_finite(Format::BF16, &encoded(StoredType::F32, &large, Format::BF16)));
    }

    #[test]
    fn numbers_that_are_not_finite_are_encoded_as_by_numpy() {
        // A signalling NaN becomes quiet in bf16, keeping its payload's upper bits and its sign.
        assert_eq!(bf16(f32::from_bits(0xff80_0001)), 0xffc0);
        assert_eq!((bf16(f32::INFINITY), bf16(f32::MAX)), (0x7f80, 0x7f80));
        for (worst, scale_is) in [(f32::NAN, f32::is_nan as fn(f32) -> bool), (f32::INFINITY, f32::is_infinite), (1e-39, |d| d == 0.0)] {
            let mut numbers = [1e-40_f32; 32];
            numbers[7] = worst;
            let out = encoded(StoredType::F32, &bytes(&numbers), Format::Q8_0);
            assert!(scale_is(f16::from_le_bytes([out[0], out[1]]).to_f32()), "{worst}");
            assert!(out[2..].iter().all(|quant| *quant == 0), "{worst}");
        }
    }
}
