//! The searches for scales of ggml's encoders (`make_qkx3_quants` and others in ggml-quants.c of llama.cpp, MIT licence), for a
//! sub-block in each lane.
//!
//! The order of additions and the operands of every product are those of the source, since they decide the last bit.
#![allow(clippy::inline_always)]

use crate::gguf::quants::lanes::Lanes;

/// ggml's `GROUP_MAX_EPS`: below it, a sub-block counts as zero.
pub(super) const ZERO: f32 = 1e-15;
/// Magnitudes up to which no product of a search overflows.
const LARGE: f32 = 1e30;

/// The scales that are tried: `(first + step · i + top) / range` for i from 0 to `last`.
#[derive(Clone, Copy)]
pub(super) struct Trials {
    pub top: f32,
    pub first: f32,
    pub step: f32,
    pub last: u8,
    /// The error is absolute, not squared.
    pub absolute: bool,
}

/// x ≈ scale · level - min, with levels from 0 to `top`.
#[derive(Clone, Copy)]
pub(super) struct MinFit<V> {
    pub scale: V,
    pub min: V,
    /// The levels of this fit are `inverse · (x - offset)`, rounded.
    pub inverse: V,
    pub offset: V,
}

/// `make_qkx2_quants` and `make_qkx3_quants` (for given weights they are the same).
#[inline(always)]
pub(super) fn fit_min<V: Lanes, const N: usize>(x: &[V; N], weights: &[V; N], trials: Trials, refused: &mut V::Mask) -> MinFit<V> {
    let zero = V::splat(0.0);
    let (mut min, mut max, mut sum_w) = (x[0], x[0], weights[0]);
    let mut sum_x = sum_w.mul(x[0]);
    for i in 1..N {
        min = x[i].lesser(min);
        max = x[i].greater(max);
        sum_w = sum_w.add(weights[i]);
        sum_x = sum_x.add(weights[i].mul(x[i]));
    }
    min = V::select(zero.lt(min), zero, min);
    let (lowest, flat) = (min, max.eq(min));
    let mut inverse = V::splat(trials.top).div(max.sub(min));
    let mut scale = V::splat(1.0).div(inverse);
    let bounds = Bounds { lowest, max, top: trials.top };
    let mut trusted = bounds.hold(inverse, min);
    let mut levels = [zero; N];
    for i in 0..N {
        levels[i] = min_level(x[i], inverse, min, trials.top, false);
    }
    let mut best = min_error(x, weights, &levels, scale, min, trials.absolute);
    let mut offset = min;
    for trial in 0..=trials.last {
        let numerator = trials.first + trials.step * f32::from(trial) + trials.top;
        let now = V::splat(numerator).div(max.sub(min));
        trusted = V::and(trusted, bounds.hold(now, min));
        let clamp_top = numerator - trials.top > 0.49;
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for i in 0..N {
            let level = min_level(x[i], now, min, trials.top, clamp_top);
            levels[i] = level;
            let weighted = weights[i].mul(level);
            sum_l = sum_l.add(weighted);
            sum_l2 = sum_l2.add(weighted.mul(level));
            sum_xl = sum_xl.add(weighted.mul(x[i]));
        }
        let determinant = sum_w.mul(sum_l2).sub(sum_l.mul(sum_l));
        let new_scale = sum_w.mul(sum_xl).sub(sum_x.mul(sum_l)).div(determinant);
        let new_min = sum_l2.mul(sum_x).sub(sum_l.mul(sum_xl)).div(determinant);
        let above = zero.lt(new_min);
        let new_scale = V::select(above, sum_xl.div(sum_l2), new_scale);
        let new_min = V::select(above, zero, new_min);
        let total = min_error(x, weights, &levels, new_scale, new_min, trials.absolute);
        let better = V::and(zero.lt(determinant), total.lt(best));
        best = V::select(better, total, best);
        scale = V::select(better, new_scale, scale);
        inverse = V::select(better, now, inverse);
        offset = V::select(better, min, offset);
        min = V::select(better, new_min, min);
    }
    *refused = V::or(*refused, V::not(V::or(flat, trusted)));
    MinFit {
        scale: V::select(flat, zero, scale),
        min: V::select(flat, lowest, min).neg(),
        inverse: V::select(flat, zero, inverse),
        offset: V::select(flat, lowest, offset),
    }
}

/// What decides whether the levels of a trial are in the range of `nearest`, and at most half a step above `top`.
struct Bounds<V> {
    lowest: V,
    max: V,
    top: f32,
}

impl<V: Lanes> Bounds<V> {
    #[inline(always)]
    fn hold(&self, inverse: V, min: V) -> V::Mask {
        let (low, high) = (inverse.mul(self.lowest.sub(min)), inverse.mul(self.max.sub(min)));
        let positive = V::and(V::splat(0.0).lt(high), high.lt(V::splat(self.top + 2.0)));
        V::and(V::and(V::splat(-4e6).lt(low), positive), V::not(high.lt(low)))
    }
}

#[inline(always)]
fn min_level<V: Lanes>(x: V, inverse: V, min: V, top: f32, clamp_top: bool) -> V {
    let level = inverse.mul(x.sub(min)).nearest().greater(V::splat(0.0));
    if clamp_top || V::COUNT == 1 { level.lesser(V::splat(top)) } else { level }
}

#[inline(always)]
fn min_error<V: Lanes, const N: usize>(x: &[V; N], weights: &[V; N], levels: &[V; N], scale: V, min: V, absolute: bool) -> V {
    let mut total = V::splat(0.0);
    for i in 0..N {
        let difference = scale.mul(levels[i]).add(min).sub(x[i]);
        total = total.add(weights[i].mul(if absolute { difference.abs() } else { difference.mul(difference) }));
    }
    total
}

/// x ≈ scale · level, with levels from -top to top - 1.
#[derive(Clone, Copy)]
pub(super) struct SymmetricFit<V> {
    pub scale: V,
    /// The levels of this fit are `inverse · x`, rounded. Infinite for a sub-block of zeros, whose bytes are zero.
    pub inverse: V,
}

/// The number of largest magnitude, the first of equal ones, and its magnitude.
#[inline(always)]
pub(super) fn largest<V: Lanes>(x: &[V]) -> (V, V) {
    let (mut magnitude, mut largest) = (V::splat(0.0), V::splat(0.0));
    for number in x {
        let size = number.abs();
        let larger = magnitude.lt(size);
        magnitude = V::select(larger, size, magnitude);
        largest = V::select(larger, *number, largest);
    }
    (largest, magnitude)
}

/// `make_qx_quants` with the error type 1.
#[inline(always)]
pub(super) fn fit_symmetric<V: Lanes, const N: usize>(x: &[V; N], weights: &[V; N], top: f32, refused: &mut V::Mask) -> SymmetricFit<V> {
    const AT_ONCE: usize = 3;
    let zero = V::splat(0.0);
    let (max, magnitude) = largest(x);
    let empty = magnitude.lt(V::splat(ZERO));
    *refused = V::or(*refused, V::not(V::or(empty, magnitude.lt(V::splat(LARGE)))));

    let mut inverse = V::splat(-top).div(max);
    let weighted = products(weights, x);
    let ([sum_lx], [sum_l2]) = symmetric_sums(x, weights, &weighted, [inverse], top, (false, true));
    let mut scale = V::select(sum_l2.eq(zero), zero, sum_lx.div(sum_l2));
    let mut best = scale.mul(sum_lx);
    for first in [-9_i8, -6, -3, 1, 4, 7] {
        let mut inverses = [zero; AT_ONCE];
        for (index, inverse) in inverses.iter_mut().enumerate() {
            *inverse = V::splat(-(top + 0.1 * f32::from(first + index as i8))).div(max);
        }
        // Below -5 no level exceeds top - 1, and below 5 none is less than -top.
        let (sums_lx, sums_l2) = symmetric_sums(x, weights, &weighted, inverses, top, (first > 3, first > -9));
        for index in 0..AT_ONCE {
            let (sum_lx, sum_l2, now) = (sums_lx[index], sums_l2[index], inverses[index]);
            let better = V::and(zero.lt(sum_l2), best.mul(sum_l2).lt(sum_lx.mul(sum_lx)));
            scale = V::select(better, sum_lx.div(sum_l2), scale);
            best = V::select(better, scale.mul(sum_lx), best);
            inverse = V::select(better, now, inverse);
        }
    }
    SymmetricFit { scale: V::select(empty, zero, scale), inverse: V::select(empty, V::splat(f32::INFINITY), inverse) }
}

#[inline(always)]
pub(super) fn products<V: Lanes, const N: usize>(one: &[V; N], other: &[V; N]) -> [V; N] {
    let mut products = *one;
    for i in 0..N {
        products[i] = products[i].mul(other[i]);
    }
    products
}

/// The sum of numbers, from the first on.
#[inline(always)]
pub(super) fn sum<V: Lanes>(numbers: &[V]) -> V {
    let mut sum = V::splat(0.0);
    for number in numbers {
        sum = sum.add(*number);
    }
    sum
}

#[inline(always)]
pub(super) fn sum_of_squares<V: Lanes>(numbers: &[V]) -> V {
    let mut sum = V::splat(0.0);
    for number in numbers {
        sum = sum.add(number.mul(*number));
    }
    sum
}

/// The weights of numbers in the error: importance · √(energy + x²).
#[inline(always)]
pub(super) fn importance_weights<V: Lanes, const N: usize>(importance: &[V], energy: V, x: &[V; N]) -> [V; N] {
    let mut weights = *x;
    for i in 0..N {
        weights[i] = importance[i].mul(energy.add(x[i].mul(x[i])).sqrt());
    }
    weights
}

/// An integer limited to -top and top - 1.
#[inline(always)]
fn signed_level<V: Lanes>(level: V, top: f32) -> V {
    level.lesser(V::splat(top - 1.0)).greater(V::splat(-top))
}

/// Σ weight·x·level and Σ weight·level² for several scales. `clamped`: below and above.
#[inline(always)]
fn symmetric_sums<V: Lanes, const N: usize, const T: usize>(
    x: &[V; N],
    weights: &[V; N],
    weighted: &[V; N],
    inverses: [V; T],
    top: f32,
    clamped: (bool, bool),
) -> ([V; T], [V; T]) {
    let (mut sums_lx, mut sums_l2) = ([V::splat(0.0); T], [V::splat(0.0); T]);
    for i in 0..N {
        for trial in 0..T {
            let mut level = inverses[trial].mul(x[i]).nearest();
            if clamped.1 || V::COUNT == 1 {
                level = level.lesser(V::splat(top - 1.0));
            }
            if clamped.0 || V::COUNT == 1 {
                level = level.greater(V::splat(-top));
            }
            sums_lx[trial] = sums_lx[trial].add(weighted[i].mul(level));
            sums_l2[trial] = sums_l2[trial].add(weights[i].mul(level).mul(level));
        }
    }
    (sums_lx, sums_l2)
}

/// `make_q3_quants` with refinement: the scale, and the levels plus `top` (0 in a sub-block of zeros).
#[inline(always)]
pub(super) fn fit_refined<V: Lanes, const N: usize>(x: &[V; N], top: f32, refused: &mut V::Mask) -> (V, [V; N]) {
    let zero = V::splat(0.0);
    let (max, magnitude) = largest(x);
    let empty = magnitude.lt(V::splat(ZERO));
    let mut trusted = magnitude.lt(V::splat(LARGE));
    let inverse = V::splat(-top).div(max);
    let mut levels = *x;
    for level in &mut levels {
        *level = signed_level(inverse.mul(*level).nearest(), top);
    }
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        let weight = x[i].mul(x[i]);
        sum_lx = sum_lx.add(weight.mul(x[i]).mul(levels[i]));
        sum_l2 = sum_l2.add(weight.mul(levels[i]).mul(levels[i]));
    }
    for _ in 0..5 {
        let mut changed = V::none();
        for i in 0..N {
            let weight = x[i].mul(x[i]);
            let weighted = weight.mul(x[i]);
            let without_lx = sum_lx.sub(weighted.mul(levels[i]));
            let without_l2 = sum_l2.sub(weight.mul(levels[i]).mul(levels[i]));
            let possible = zero.lt(without_lx);
            let wanted = x[i].mul(without_l2).div(without_lx);
            trusted = V::and(trusted, V::or(V::not(possible), wanted.abs().lt(V::splat(4e6))));
            let level = signed_level(wanted.nearest(), top);
            let lx = without_lx.add(weighted.mul(level));
            let l2 = without_l2.add(weight.mul(level).mul(level));
            let better = sum_lx.mul(sum_lx).mul(l2).lt(lx.mul(lx).mul(sum_l2));
            let take = V::and(V::and(possible, V::not(level.eq(levels[i]))), V::and(zero.lt(l2), better));
            levels[i] = V::select(take, level, levels[i]);
            sum_lx = V::select(take, lx, sum_lx);
            sum_l2 = V::select(take, l2, sum_l2);
            changed = V::or(changed, take);
        }
        // A pass without a change would only repeat itself.
        if !V::any(V::and(changed, V::not(empty))) {
            break;
        }
    }
    *refused = V::or(*refused, V::not(V::or(empty, trusted)));
    let scale = V::select(zero.lt(sum_l2), sum_lx.div(sum_l2), zero);
    for level in &mut levels {
        *level = V::select(empty, zero, level.add(V::splat(top)));
    }
    (V::select(empty, zero, scale), levels)
}

/// `make_qp_quants`: the scale of scales that are not negative, and their levels from 0 to `top`.
#[inline(always)]
pub(super) fn fit_scales<V: Lanes, const N: usize>(x: &[V; N], weights: &[V; N], top: f32, refused: &mut V::Mask) -> (V, [V; N]) {
    let zero = V::splat(0.0);
    let (mut max, mut negative) = (zero, V::none());
    for number in x {
        max = max.greater(*number);
        negative = V::or(negative, number.lt(zero));
    }
    let empty = max.lt(V::splat(ZERO));
    let mut trusted = V::and(V::not(negative), max.lt(V::splat(LARGE)));
    let most = V::splat(top);

    let mut inverse = V::splat(top).div(max);
    let scale = V::splat(1.0).div(inverse);
    let mut best = zero;
    for i in 0..N {
        let difference = x[i].sub(scale.mul(inverse.mul(x[i]).nearest().wrapped()));
        best = best.add(weights[i].mul(difference).mul(difference));
    }
    for trial in [-4_i8, -3, -2, -1, 1, 2, 3, 4] {
        let now = V::splat(0.1 * f32::from(trial) + top).div(max);
        let scale = V::splat(1.0).div(now);
        let mut total = zero;
        for i in 0..N {
            let difference = x[i].sub(scale.mul(now.mul(x[i]).nearest().lesser(most)));
            total = total.add(weights[i].mul(difference).mul(difference));
        }
        let better = total.lt(best);
        best = V::select(better, total, best);
        inverse = V::select(better, now, inverse);
    }
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    let mut levels = *x;
    for i in 0..N {
        let level = inverse.mul(x[i]).nearest().lesser(most);
        sum_lx = sum_lx.add(weights[i].mul(x[i]).mul(level));
        sum_l2 = sum_l2.add(weights[i].mul(level).mul(level));
        levels[i] = level.wrapped();
    }
    for _ in 0..5 {
        let mut changed = V::none();
        for i in 0..N {
            let weighted = weights[i].mul(x[i]);
            let without_lx = sum_lx.sub(weighted.mul(levels[i]));
            let without_l2 = sum_l2.sub(weights[i].mul(levels[i]).mul(levels[i]));
            let possible = V::and(zero.lt(without_lx), zero.lt(without_l2));
            let wanted = x[i].mul(without_l2).div(without_lx);
            trusted = V::and(trusted, V::or(V::not(possible), wanted.lt(V::splat(4e6))));
            let level = wanted.nearest().lesser(most);
            let lx = without_lx.add(weighted.mul(level));
            let l2 = without_l2.add(weights[i].mul(level).mul(level));
            let better = sum_lx.mul(sum_lx).mul(l2).lt(lx.mul(lx).mul(sum_l2));
            let take = V::and(V::and(possible, V::not(level.eq(levels[i]))), better);
            levels[i] = V::select(take, level.wrapped(), levels[i]);
            sum_lx = V::select(take, lx, sum_lx);
            sum_l2 = V::select(take, l2, sum_l2);
            changed = V::or(changed, take);
        }
        if !V::any(V::and(changed, V::not(empty))) {
            break;
        }
    }
    *refused = V::or(*refused, V::not(V::or(empty, trusted)));
    let scale = V::select(zero.lt(sum_l2), sum_lx.div(sum_l2), zero);
    for level in &mut levels {
        *level = V::select(empty, zero, *level);
    }
    (V::select(empty, zero, scale), levels)
}
