//! Lanes in the registers of x86 processors: 8 of AVX2, 16 of AVX-512. No operation is fused.
#![allow(clippy::inline_always)]
#![allow(clippy::wildcard_imports)] // one name for each instruction

use std::arch::x86_64::*;

use crate::gguf::quants::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// The functions of `Lanes` that are one instruction each.
macro_rules! instructions {
    ($register:ident, $($name:ident ($($operand:ident),*) = $instruction:expr;)*) => { $(
        #[inline(always)]
        fn $name(self $(, $operand: Self)*) -> Self {
            // SAFETY: only functions that enable the processor's feature use these lanes.
            $register(unsafe { $instruction(self.0 $(, $operand.0)*) })
        }
    )* };
}

impl Lanes for Avx512 {
    const COUNT: usize = 16;
    type Mask = __mmask16;

    instructions! { Avx512,
        add(other) = _mm512_add_ps;
        sub(other) = _mm512_sub_ps;
        mul(other) = _mm512_mul_ps;
        div(other) = _mm512_div_ps;
        sqrt() = _mm512_sqrt_ps;
        abs() = _mm512_abs_ps;
        lesser(other) = _mm512_min_ps;
        greater(other) = _mm512_max_ps;
    }
    #[inline(always)]
    fn splat(number: f32) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_set1_ps(number) })
    }
    #[inline(always)]
    fn read(numbers: &[f32]) -> Self {
        let numbers = &numbers[..16];
        // SAFETY: there are 16 numbers; the feature as above.
        Avx512(unsafe { _mm512_loadu_ps(numbers.as_ptr()) })
    }
    #[inline(always)]
    fn write(self, places: &mut [f32]) {
        let places = &mut places[..16];
        // SAFETY: there are 16 places; the feature as above.
        unsafe { _mm512_storeu_ps(places.as_mut_ptr(), self.0) };
    }
    #[inline(always)]
    fn lt(self, other: Self) -> __mmask16 {
        // SAFETY: as above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn eq(self, other: Self) -> __mmask16 {
        // SAFETY: as above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }
    #[inline(always)]
    fn and(one: __mmask16, other: __mmask16) -> __mmask16 {
        one & other
    }
    #[inline(always)]
    fn or(one: __mmask16, other: __mmask16) -> __mmask16 {
        one | other
    }
    #[inline(always)]
    fn not(mask: __mmask16) -> __mmask16 {
        !mask
    }
    #[inline(always)]
    fn bits(mask: __mmask16) -> u32 {
        u32::from(mask)
    }
}

impl Lanes for Avx2 {
    const COUNT: usize = 8;
    type Mask = __m256;

    instructions! { Avx2,
        add(other) = _mm256_add_ps;
        sub(other) = _mm256_sub_ps;
        mul(other) = _mm256_mul_ps;
        div(other) = _mm256_div_ps;
        sqrt() = _mm256_sqrt_ps;
        lesser(other) = _mm256_min_ps;
        greater(other) = _mm256_max_ps;
    }
    #[inline(always)]
    fn splat(number: f32) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_set1_ps(number) })
    }
    #[inline(always)]
    fn read(numbers: &[f32]) -> Self {
        let numbers = &numbers[..8];
        // SAFETY: there are 8 numbers; the feature as above.
        Avx2(unsafe { _mm256_loadu_ps(numbers.as_ptr()) })
    }
    #[inline(always)]
    fn write(self, places: &mut [f32]) {
        let places = &mut places[..8];
        // SAFETY: there are 8 places; the feature as above.
        unsafe { _mm256_storeu_ps(places.as_mut_ptr(), self.0) };
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn lt(self, other: Self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn eq(self, other: Self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn select(mask: __m256, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }
    #[inline(always)]
    fn and(one: __m256, other: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_and_ps(one, other) }
    }
    #[inline(always)]
    fn or(one: __m256, other: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_or_ps(one, other) }
    }
    #[inline(always)]
    fn not(mask: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_xor_ps(mask, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) }
    }
    #[inline(always)]
    fn bits(mask: __m256) -> u32 {
        // SAFETY: as above.
        unsafe { _mm256_movemask_ps(mask) }.cast_unsigned()
    }
}
