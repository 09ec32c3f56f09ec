//! Numbers of several blocks side by side, one block in each lane, so that one text of an encoder is the plain form and the vector forms.
//!
//! Every operation rounds as the scalar operation does, and sums keep their order within a lane. So all forms give the same bytes.
//! An exception is [`Lanes::nearest`], which is exact for any number only in the plain form; encoders report the lanes where a
//! number may be outside its range, and these blocks are encoded again in the plain form.
//!
//! Everything is inlined into functions that enable the processor's features.
#![allow(clippy::inline_always)]

/// Numbers, one in each lane.
pub(super) trait Lanes: Copy {
    /// The number of lanes.
    const COUNT: usize;
    type Mask: Copy;

    fn splat(number: f32) -> Self;
    /// Reads the first `COUNT` numbers.
    fn read(numbers: &[f32]) -> Self;
    /// Writes to the first `COUNT` places.
    fn write(self, places: &mut [f32]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// `self < other ? self : other`
    fn lesser(self, other: Self) -> Self;
    /// `self > other ? self : other`
    fn greater(self, other: Self) -> Self;
    /// False if one is NaN.
    fn lt(self, other: Self) -> Self::Mask;
    /// False if one is NaN.
    fn eq(self, other: Self) -> Self::Mask;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask;
    fn or(one: Self::Mask, other: Self::Mask) -> Self::Mask;
    fn not(mask: Self::Mask) -> Self::Mask;
    /// Bit i is lane i.
    fn bits(mask: Self::Mask) -> u32;

    /// The nearest integer, ties to even, for numbers up to 4194303. In the plain form for all numbers as ggml's `nearest_int` gives it.
    #[inline(always)]
    fn nearest(self) -> Self {
        let magic = Self::splat(MAGIC);
        self.add(magic).sub(magic)
    }

    /// An integer as C's conversion to `uint8_t` leaves it. Only the plain form meets integers outside of 0 to 255.
    #[inline(always)]
    fn wrapped(self) -> Self {
        self
    }

    #[inline(always)]
    fn neg(self) -> Self {
        Self::splat(-0.0).sub(self)
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        Self::bits(mask) != 0
    }

    #[inline(always)]
    fn none() -> Self::Mask {
        Self::splat(0.0).lt(Self::splat(0.0))
    }
}

/// 1.5 · 2^23: added to a number, it leaves the nearest integer in the lowest bits.
const MAGIC: f32 = 12_582_912.0;

/// ggml's `nearest_int`.
#[inline(always)]
pub(super) fn nearest(number: f32) -> i32 {
    ((number + MAGIC).to_bits() & 0x007f_ffff).cast_signed() - 0x0040_0000
}

/// The plain form: one lane.
impl Lanes for f32 {
    const COUNT: usize = 1;
    type Mask = bool;

    #[inline(always)]
    fn splat(number: f32) -> f32 {
        number
    }
    #[inline(always)]
    fn read(numbers: &[f32]) -> f32 {
        numbers[0]
    }
    #[inline(always)]
    fn write(self, places: &mut [f32]) {
        places[0] = self;
    }
    #[inline(always)]
    fn add(self, other: f32) -> f32 {
        self + other
    }
    #[inline(always)]
    fn sub(self, other: f32) -> f32 {
        self - other
    }
    #[inline(always)]
    fn mul(self, other: f32) -> f32 {
        self * other
    }
    #[inline(always)]
    fn div(self, other: f32) -> f32 {
        self / other
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn lesser(self, other: f32) -> f32 {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn greater(self, other: f32) -> f32 {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn lt(self, other: f32) -> bool {
        self < other
    }
    #[inline(always)]
    #[allow(clippy::float_cmp)]
    fn eq(self, other: f32) -> bool {
        self == other
    }
    #[inline(always)]
    fn select(mask: bool, yes: f32, no: f32) -> f32 {
        if mask { yes } else { no }
    }
    #[inline(always)]
    fn and(one: bool, other: bool) -> bool {
        one & other
    }
    #[inline(always)]
    fn or(one: bool, other: bool) -> bool {
        one | other
    }
    #[inline(always)]
    fn not(mask: bool) -> bool {
        !mask
    }
    #[inline(always)]
    fn bits(mask: bool) -> u32 {
        u32::from(mask)
    }
    #[inline(always)]
    fn nearest(self) -> f32 {
        nearest(self) as f32
    }
    #[inline(always)]
    fn wrapped(self) -> f32 {
        f32::from(self as i32 as u8)
    }
}

/// Two registers as one: their operations are independent, which hides the latency of ordered sums.
#[derive(Clone, Copy)]
pub(super) struct Pair<V>(pub V, pub V);

impl<V: Lanes> Lanes for Pair<V> {
    const COUNT: usize = 2 * V::COUNT;
    type Mask = (V::Mask, V::Mask);

    #[inline(always)]
    fn splat(number: f32) -> Self {
        Pair(V::splat(number), V::splat(number))
    }
    #[inline(always)]
    fn read(numbers: &[f32]) -> Self {
        Pair(V::read(numbers), V::read(&numbers[V::COUNT..]))
    }
    #[inline(always)]
    fn write(self, places: &mut [f32]) {
        self.0.write(places);
        self.1.write(&mut places[V::COUNT..]);
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Pair(self.0.add(other.0), self.1.add(other.1))
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Pair(self.0.sub(other.0), self.1.sub(other.1))
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Pair(self.0.mul(other.0), self.1.mul(other.1))
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Pair(self.0.div(other.0), self.1.div(other.1))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Pair(self.0.sqrt(), self.1.sqrt())
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Pair(self.0.abs(), self.1.abs())
    }
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        Pair(self.0.lesser(other.0), self.1.lesser(other.1))
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        Pair(self.0.greater(other.0), self.1.greater(other.1))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        (self.0.lt(other.0), self.1.lt(other.1))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        (self.0.eq(other.0), self.1.eq(other.1))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Pair(V::select(mask.0, yes.0, no.0), V::select(mask.1, yes.1, no.1))
    }
    #[inline(always)]
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask {
        (V::and(one.0, other.0), V::and(one.1, other.1))
    }
    #[inline(always)]
    fn or(one: Self::Mask, other: Self::Mask) -> Self::Mask {
        (V::or(one.0, other.0), V::or(one.1, other.1))
    }
    #[inline(always)]
    fn not(mask: Self::Mask) -> Self::Mask {
        (V::not(mask.0), V::not(mask.1))
    }
    #[inline(always)]
    fn bits(mask: Self::Mask) -> u32 {
        V::bits(mask.0) | V::bits(mask.1) << V::COUNT
    }
    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        V::any(mask.0) | V::any(mask.1)
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        Pair(self.0.nearest(), self.1.nearest())
    }
    #[inline(always)]
    fn wrapped(self) -> Self {
        Pair(self.0.wrapped(), self.1.wrapped())
    }
}

/// The most lanes of any form.
pub(super) const MOST: usize = 32;

/// Numbers of N vectors by lane: `table[index][lane]`.
pub(super) type Table<const N: usize> = [[f32; MOST]; N];

#[inline(always)]
pub(super) fn table<V: Lanes, const N: usize>(vectors: &[V; N]) -> Table<N> {
    let mut table = [[0.0; MOST]; N];
    for (places, vector) in table.iter_mut().zip(vectors) {
        vector.write(places);
    }
    table
}

#[inline(always)]
pub(super) fn lane<const N: usize>(table: &Table<N>, lane: usize) -> [f32; N] {
    let mut numbers = [0.0; N];
    for (number, places) in numbers.iter_mut().zip(table) {
        *number = places[lane];
    }
    numbers
}
