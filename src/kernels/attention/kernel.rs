//! A head of a row, in AVX-512.

use std::arch::x86_64::{
    __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_max_ps, _mm512_maskz_mov_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use crate::kernels::LANES;
use crate::kernels::attention::head::{Attention, Head, QUERIES, Scratch};
use crate::kernels::avx512::{Left, Right, exp, load, store, tile};

/// Rows of a product whose numbers are held in registers together, and registers of each.
const HEIGHT: usize = 6;
const WIDTH: usize = 4;

/// Some queries, and the keys that they see, from a whole register on.
struct Block {
    queries: std::ops::Range<usize>,
    first_key: usize,
    /// To whole registers.
    width: usize,
}

impl Block {
    /// The lanes of the register at `key` that query `query` sees.
    fn seen(query: usize, window: usize, key: usize) -> __mmask16 {
        let upto = |end: usize| if end >= LANES { u32::from(u16::MAX) } else { (1 << end) - 1 };
        let first = (query + 1).saturating_sub(window);
        (upto((query + 1).saturating_sub(key)) & !upto(first.saturating_sub(key))) as __mmask16
    }

    fn keys(&self) -> usize {
        self.queries.end - self.first_key
    }
}

impl Head {
    fn blocks(&self, window: usize) -> impl Iterator<Item = Block> + use<> {
        let length = self.length;
        (0..length).step_by(QUERIES).map(move |first| {
            let queries = first..(first + QUERIES).min(length);
            let first_key = (first + 1).saturating_sub(window) / LANES * LANES;
            let width = (queries.end - first_key).next_multiple_of(LANES);
            Block { queries, first_key, width }
        })
    }

    /// # Safety
    /// The pointers are to this head in the row's first token, of tensors as [`Attention`] has them; AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(crate) unsafe fn forward(
        &self,
        attention: &Attention<'_>,
        [queries, keys, values]: [*const f32; 3],
        out: *mut f32,
        divisors: *mut f32,
        scratch: &mut Scratch,
    ) {
        let (row, key_row) = (attention.heads * self.features, attention.key_heads * self.features);
        let padded = self.length.next_multiple_of(LANES);
        // SAFETY: what is read and written lies in this head of this row, or in the scratch memory made for it.
        unsafe {
            laid_out_anew(keys, key_row, self, &mut scratch.keys);
            for block in self.blocks(attention.window) {
                let weights = room(&mut scratch.weights, QUERIES * block.width);
                let first = queries.add(block.queries.start * row);
                let across = Right { at: scratch.keys.as_ptr().add(block.first_key), row: padded };
                product(
                    Left { at: first, row, column: 1 },
                    across,
                    weights,
                    block.width,
                    block.queries.len(),
                    self.features,
                    block.width,
                    false,
                );
                let mut shares = [0.0; QUERIES];
                for (at, query) in block.queries.clone().enumerate() {
                    let (divisor, total) = softmax(weights.add(at * block.width), &block, query, attention);
                    *divisors.add(query * attention.heads) = divisor;
                    shares[at] = 1.0 / total;
                }
                let from = Left { at: weights.cast_const(), row: block.width, column: 1 };
                let seen = Right { at: values.add(block.first_key * key_row), row: key_row };
                let made = out.add(block.queries.start * row);
                product(from, seen, made, row, block.queries.len(), block.keys(), self.features, false);
                for (at, share) in shares[..block.queries.len()].iter().enumerate() {
                    for feature in (0..self.features).step_by(LANES) {
                        let place = made.add(at * row + feature);
                        let [numbers] = load(place);
                        store(place, [_mm512_mul_ps(numbers, _mm512_set1_ps(*share))]);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As of `forward`; the gradients of keys and values are [tokens, heads, features], one for each head.
    #[target_feature(enable = "avx512f")]
    pub(crate) unsafe fn backward(
        &self,
        attention: &Attention<'_>,
        [queries, keys, values, out, grad]: [*const f32; 5],
        divisors: *const f32,
        [queries_grad, keys_grad, values_grad]: [*mut f32; 3],
        scratch: &mut Scratch,
    ) {
        let (row, key_row) = (attention.heads * self.features, attention.key_heads * self.features);
        let padded = self.length.next_multiple_of(LANES);
        // SAFETY: as in `forward`.
        unsafe {
            laid_out_anew(keys, key_row, self, &mut scratch.keys);
            laid_out_anew(values, key_row, self, &mut scratch.values);
            for token in 0..self.length {
                std::slice::from_raw_parts_mut(keys_grad.add(token * row), self.features).fill(0.0);
                std::slice::from_raw_parts_mut(values_grad.add(token * row), self.features).fill(0.0);
            }
            for block in self.blocks(attention.window) {
                let weights = room(&mut scratch.weights, QUERIES * block.width);
                let slopes = room(&mut scratch.slopes, QUERIES * block.width);
                let (count, width, start) = (block.queries.len(), block.width, block.queries.start * row);
                let across = |packed: &[f32]| Right { at: packed.as_ptr().add(block.first_key), row: padded };
                let by_row = |at: *const f32| Left { at: at.add(start), row, column: 1 };
                product(by_row(queries), across(&scratch.keys), weights, width, count, self.features, width, false);
                product(by_row(grad), across(&scratch.values), slopes, width, count, self.features, width, false);
                for (at, query) in block.queries.clone().enumerate() {
                    let along = dot(grad.add(query * row), out.add(query * row), self.features);
                    let divisor = *divisors.add(query * attention.heads);
                    slope(weights.add(at * width), slopes.add(at * width), &block, query, attention, divisor, along);
                }
                let key_rows = Right { at: keys.add(block.first_key * key_row), row: key_row };
                let from = Left { at: slopes.cast_const(), row: width, column: 1 };
                product(from, key_rows, queries_grad.add(start), row, count, block.keys(), self.features, false);
                for (of, others, to) in [(weights, grad, values_grad), (slopes, queries, keys_grad)] {
                    let turned = Left { at: of.cast_const(), row: 1, column: width };
                    let to = to.add(block.first_key * row);
                    product(turned, Right { at: others.add(start), row }, to, row, block.keys(), count, self.features, true);
                }
            }
        }
    }
}

/// `out`, whose rows are `out_row` apart, becomes [height, depth] times [depth, width], or has it added. `width` is whole registers.
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
unsafe fn product(left: Left, right: Right, out: *mut f32, out_row: usize, height: usize, depth: usize, width: usize, add: bool) {
    for column in (0..width).step_by(WIDTH * LANES) {
        let registers = ((width - column) / LANES).min(WIDTH);
        // SAFETY: the caller vouches for the three matrices.
        unsafe {
            let (right, out) = (Right { at: right.at.add(column), ..right }, out.add(column));
            match registers {
                1 => rows::<1>(left, right, out, out_row, height, depth, add),
                2 => rows::<2>(left, right, out, out_row, height, depth, add),
                3 => rows::<3>(left, right, out, out_row, height, depth, add),
                _ => rows::<WIDTH>(left, right, out, out_row, height, depth, add),
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn rows<const N: usize>(left: Left, right: Right, out: *mut f32, out_row: usize, height: usize, depth: usize, add: bool) {
    let mut row = 0;
    // SAFETY: as in `product`.
    unsafe {
        while row < height {
            let (left, out) = (Left { at: left.at.add(row * left.row), ..left }, out.add(row * out_row));
            let step = match height - row {
                HEIGHT.. => {
                    tile::<HEIGHT, N>(left, right, out, out_row, depth, add);
                    HEIGHT
                }
                3.. => {
                    tile::<3, N>(left, right, out, out_row, depth, add);
                    3
                }
                _ => {
                    tile::<1, N>(left, right, out, out_row, depth, add);
                    1
                }
            };
            row += step;
        }
    }
}

/// A query's products with its keys become exp(scale product - the largest), and zero where it sees nothing. Returns ln of the
/// softmax's divisor, and the exponents' sum.
#[target_feature(enable = "avx512f")]
unsafe fn softmax(products: *mut f32, block: &Block, query: usize, attention: &Attention<'_>) -> (f32, f32) {
    let scale = _mm512_set1_ps(attention.scale);
    let seen = |at: usize| Block::seen(query, attention.window, block.first_key + at);
    // SAFETY: `products` are `width` numbers.
    unsafe {
        let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
        for at in (0..block.width).step_by(LANES) {
            let [numbers] = load(products.add(at));
            largest = _mm512_mask_max_ps(largest, seen(at), largest, _mm512_mul_ps(numbers, scale));
        }
        let largest = _mm512_reduce_max_ps(largest);
        let mut total = _mm512_setzero_ps();
        for at in (0..block.width).step_by(LANES) {
            let [numbers] = load(products.add(at));
            let exponent = exp(_mm512_sub_ps(_mm512_mul_ps(numbers, scale), _mm512_set1_ps(largest)));
            let exponent = _mm512_maskz_mov_ps(seen(at), exponent);
            total = _mm512_add_ps(total, exponent);
            store(products.add(at), [exponent]);
        }
        let total = _mm512_reduce_add_ps(total);
        (largest + total.ln(), total)
    }
}

/// Products become the softmax's weights w, and the weights' gradients g those of the products: scale w (g - along).
#[target_feature(enable = "avx512f")]
unsafe fn slope(products: *mut f32, slopes: *mut f32, block: &Block, query: usize, attention: &Attention<'_>, divisor: f32, along: f32) {
    let scale = _mm512_set1_ps(attention.scale);
    for at in (0..block.width).step_by(LANES) {
        // SAFETY: both are `width` numbers.
        unsafe {
            let ([number], [slope]) = (load(products.add(at)), load(slopes.add(at)));
            let weight = exp(_mm512_sub_ps(_mm512_mul_ps(number, scale), _mm512_set1_ps(divisor)));
            let weight = _mm512_maskz_mov_ps(Block::seen(query, attention.window, block.first_key + at), weight);
            store(products.add(at), [weight]);
            let slope = _mm512_mul_ps(_mm512_mul_ps(weight, scale), _mm512_sub_ps(slope, _mm512_set1_ps(along)));
            store(slopes.add(at), [slope]);
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn dot(one: *const f32, other: *const f32, features: usize) -> f32 {
    let mut sum = _mm512_setzero_ps();
    for at in (0..features).step_by(LANES) {
        // SAFETY: both are `features` numbers.
        let ([one], [other]) = unsafe { (load(one.add(at)), load(other.add(at))) };
        sum = _mm512_fmadd_ps(one, other, sum);
    }
    _mm512_reduce_add_ps(sum)
}

/// [tokens, features], rows `row` apart, as [features, tokens].
unsafe fn laid_out_anew(from: *const f32, row: usize, head: &Head, to: &mut Vec<f32>) {
    let padded = head.length.next_multiple_of(LANES);
    to.clear();
    to.resize(head.features * padded, 0.0);
    for (feature, numbers) in to.chunks_mut(padded).enumerate() {
        for (token, number) in numbers[..head.length].iter_mut().enumerate() {
            // SAFETY: the caller vouches for the head's tokens.
            *number = unsafe { *from.add(token * row + feature) };
        }
    }
}

fn room(memory: &mut Vec<f32>, count: usize) -> *mut f32 {
    if memory.len() < count {
        memory.resize(count, 0.0);
    }
    memory.as_mut_ptr()
}
