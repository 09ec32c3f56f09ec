//! Attention of one head of one row, in AVX-512.

use std::arch::x86_64::{
    __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_max_ps, _mm512_maskz_mov_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use crate::kernels::LANES;
use crate::kernels::attention::head::{Attention, AttentionHead, QUERY_BLOCK, ThreadBuffers};
use crate::kernels::avx512::{LhsMatrix, RhsMatrix, exp, load, matmul_tile, store};

/// Rows of an output tile, which is held in registers.
const TILE_ROWS: usize = 6;
/// Registers of each row of an output tile.
const TILE_REGISTERS: usize = 4;

/// Consecutive queries, and the range of keys that they attend to.
struct QueryBlock {
    queries: std::ops::Range<usize>,
    /// The first key that the block attends to, rounded down to a whole register.
    first_key: usize,
    /// Keys from `first_key` on, rounded up to whole registers.
    padded_keys: usize,
}

impl QueryBlock {
    /// The lanes that `query` attends to, of the register whose first lane is key `key`.
    fn visible_lanes(query: usize, window: usize, key: usize) -> __mmask16 {
        let lanes_below = |end: usize| if end >= LANES { u32::from(u16::MAX) } else { (1 << end) - 1 };
        let first_visible = (query + 1).saturating_sub(window);
        (lanes_below((query + 1).saturating_sub(key)) & !lanes_below(first_visible.saturating_sub(key))) as __mmask16
    }

    /// Keys from `first_key` on, without padding.
    fn key_count(&self) -> usize {
        self.queries.end - self.first_key
    }
}

impl AttentionHead {
    fn query_blocks(&self, window: usize) -> impl Iterator<Item = QueryBlock> + use<> {
        let length = self.length;
        (0..length).step_by(QUERY_BLOCK).map(move |first_query| {
            let queries = first_query..(first_query + QUERY_BLOCK).min(length);
            let first_key = (first_query + 1).saturating_sub(window) / LANES * LANES;
            let padded_keys = (queries.end - first_key).next_multiple_of(LANES);
            QueryBlock { queries, first_key, padded_keys }
        })
    }

    /// Writes the head's part of `out` and `logsumexp`. See [`Attention::forward`] for the shapes.
    ///
    /// # Safety
    /// The pointers must point to this head at the row's first token, in tensors of the shapes of [`Attention`]. The processor must
    /// have AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(crate) unsafe fn forward(
        &self,
        attention: &Attention<'_>,
        [queries, keys, values]: [*const f32; 3],
        out: *mut f32,
        logsumexp: *mut f32,
        buffers: &mut ThreadBuffers,
    ) {
        let (row_stride, key_stride) = (attention.heads * self.features, attention.key_heads * self.features);
        let padded_length = self.length.next_multiple_of(LANES);
        // SAFETY: all reads and writes are within this head of this row, or within the buffers sized for it.
        unsafe {
            pack_transposed(keys, key_stride, self, &mut buffers.keys);
            for block in self.query_blocks(attention.window) {
                let (query_count, padded_keys) = (block.queries.len(), block.padded_keys);
                let weights = sized_buffer(&mut buffers.weights, QUERY_BLOCK * padded_keys);
                let block_queries = LhsMatrix { data: queries.add(block.queries.start * row_stride), row_stride, column_stride: 1 };
                let packed_keys = RhsMatrix { data: buffers.keys.as_ptr().add(block.first_key), row_stride: padded_length };
                matmul(block_queries, packed_keys, weights, padded_keys, query_count, self.features, padded_keys, false);
                let mut inverse_sums = [0.0; QUERY_BLOCK];
                for (index, query) in block.queries.clone().enumerate() {
                    let (log_sum, sum) = exponentiate_scores(weights.add(index * padded_keys), &block, query, attention);
                    *logsumexp.add(query * attention.heads) = log_sum;
                    inverse_sums[index] = 1.0 / sum;
                }
                let exponentials = LhsMatrix { data: weights.cast_const(), row_stride: padded_keys, column_stride: 1 };
                let block_values = RhsMatrix { data: values.add(block.first_key * key_stride), row_stride: key_stride };
                let block_out = out.add(block.queries.start * row_stride);
                matmul(exponentials, block_values, block_out, row_stride, query_count, block.key_count(), self.features, false);
                // The division by the softmax's sum is applied to the result, not to the weights.
                for (index, inverse_sum) in inverse_sums[..query_count].iter().enumerate() {
                    for feature in (0..self.features).step_by(LANES) {
                        let target = block_out.add(index * row_stride + feature);
                        let [sums] = load(target);
                        store(target, [_mm512_mul_ps(sums, _mm512_set1_ps(*inverse_sum))]);
                    }
                }
            }
        }
    }

    /// Writes the head's gradients. See [`Attention::backward`]; here the gradients of keys and values are [tokens, heads, features],
    /// separate for each query head.
    ///
    /// # Safety
    /// As for [`AttentionHead::forward`], with the gradients of keys and values in the shape stated above.
    #[target_feature(enable = "avx512f")]
    pub(crate) unsafe fn backward(
        &self,
        attention: &Attention<'_>,
        [queries, keys, values, out, grad]: [*const f32; 5],
        logsumexp: *const f32,
        [queries_grad, keys_grad, values_grad]: [*mut f32; 3],
        buffers: &mut ThreadBuffers,
    ) {
        let (row_stride, key_stride) = (attention.heads * self.features, attention.key_heads * self.features);
        let padded_length = self.length.next_multiple_of(LANES);
        // SAFETY: as in `forward`.
        unsafe {
            pack_transposed(keys, key_stride, self, &mut buffers.keys);
            pack_transposed(values, key_stride, self, &mut buffers.values);
            for token in 0..self.length {
                std::slice::from_raw_parts_mut(keys_grad.add(token * row_stride), self.features).fill(0.0);
                std::slice::from_raw_parts_mut(values_grad.add(token * row_stride), self.features).fill(0.0);
            }
            for block in self.query_blocks(attention.window) {
                let (query_count, padded_keys) = (block.queries.len(), block.padded_keys);
                let block_start = block.queries.start * row_stride;
                let weights = sized_buffer(&mut buffers.weights, QUERY_BLOCK * padded_keys);
                let weight_grads = sized_buffer(&mut buffers.weight_grads, QUERY_BLOCK * padded_keys);
                let packed = |data: &[f32]| RhsMatrix { data: data.as_ptr().add(block.first_key), row_stride: padded_length };
                let block_rows = |data: *const f32| LhsMatrix { data: data.add(block_start), row_stride, column_stride: 1 };
                let (features, packed_keys, packed_values) = (self.features, packed(&buffers.keys), packed(&buffers.values));
                matmul(block_rows(queries), packed_keys, weights, padded_keys, query_count, features, padded_keys, false);
                matmul(block_rows(grad), packed_values, weight_grads, padded_keys, query_count, features, padded_keys, false);
                for (index, query) in block.queries.clone().enumerate() {
                    let grad_dot_out = dot(grad.add(query * row_stride), out.add(query * row_stride), features);
                    let log_sum = *logsumexp.add(query * attention.heads);
                    let row = index * padded_keys;
                    softmax_backward(weights.add(row), weight_grads.add(row), &block, query, attention, log_sum, grad_dot_out);
                }
                // From here on `weight_grads` holds the gradients of the query-key products.
                let product_grads = weight_grads;
                let block_keys = RhsMatrix { data: keys.add(block.first_key * key_stride), row_stride: key_stride };
                let lhs = LhsMatrix { data: product_grads.cast_const(), row_stride: padded_keys, column_stride: 1 };
                matmul(lhs, block_keys, queries_grad.add(block_start), row_stride, query_count, block.key_count(), features, false);
                for (matrix, rhs, target) in [(weights, grad, values_grad), (product_grads, queries, keys_grad)] {
                    let transposed = LhsMatrix { data: matrix.cast_const(), row_stride: 1, column_stride: padded_keys };
                    let rhs = RhsMatrix { data: rhs.add(block_start), row_stride };
                    let target = target.add(block.first_key * row_stride);
                    matmul(transposed, rhs, target, row_stride, block.key_count(), query_count, features, true);
                }
            }
        }
    }
}

/// Computes `out` [rows, columns] = lhs [rows, depth] times rhs [depth, columns].
///
/// `columns` is a multiple of `LANES`. The rows of `out` are `out_stride` values apart. With `accumulate` the product is added to `out`.
///
/// # Safety
/// The three matrices must be valid memory of these shapes and strides.
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
unsafe fn matmul(
    lhs: LhsMatrix,
    rhs: RhsMatrix,
    out: *mut f32,
    out_stride: usize,
    rows: usize,
    depth: usize,
    columns: usize,
    accumulate: bool,
) {
    for column in (0..columns).step_by(TILE_REGISTERS * LANES) {
        let registers = ((columns - column) / LANES).min(TILE_REGISTERS);
        // SAFETY: the caller guarantees the three matrices.
        unsafe {
            let (rhs, out) = (RhsMatrix { data: rhs.data.add(column), ..rhs }, out.add(column));
            match registers {
                1 => matmul_column_panel::<1>(lhs, rhs, out, out_stride, rows, depth, accumulate),
                2 => matmul_column_panel::<2>(lhs, rhs, out, out_stride, rows, depth, accumulate),
                3 => matmul_column_panel::<3>(lhs, rhs, out, out_stride, rows, depth, accumulate),
                _ => matmul_column_panel::<TILE_REGISTERS>(lhs, rhs, out, out_stride, rows, depth, accumulate),
            }
        }
    }
}

/// Computes `N * LANES` columns of [`matmul`].
///
/// # Safety
/// As for [`matmul`].
#[target_feature(enable = "avx512f")]
unsafe fn matmul_column_panel<const N: usize>(
    lhs: LhsMatrix,
    rhs: RhsMatrix,
    out: *mut f32,
    out_stride: usize,
    rows: usize,
    depth: usize,
    accumulate: bool,
) {
    let mut row = 0;
    // SAFETY: as in `matmul`.
    unsafe {
        while row < rows {
            let (lhs, out) = (LhsMatrix { data: lhs.data.add(row * lhs.row_stride), ..lhs }, out.add(row * out_stride));
            let tile_rows = match rows - row {
                TILE_ROWS.. => {
                    matmul_tile::<TILE_ROWS, N>(lhs, rhs, out, out_stride, depth, accumulate);
                    TILE_ROWS
                }
                3.. => {
                    matmul_tile::<3, N>(lhs, rhs, out, out_stride, depth, accumulate);
                    3
                }
                _ => {
                    matmul_tile::<1, N>(lhs, rhs, out, out_stride, depth, accumulate);
                    1
                }
            };
            row += tile_rows;
        }
    }
}

/// Replaces a query's products with the block's keys by exp(scale product - maximum), and by zero for keys that it does not attend to.
///
/// Returns the log-sum-exp of the scaled products, and the sum of the exponentials.
///
/// # Safety
/// `products` must be valid for `block.padded_keys` values.
#[target_feature(enable = "avx512f")]
unsafe fn exponentiate_scores(products: *mut f32, block: &QueryBlock, query: usize, attention: &Attention<'_>) -> (f32, f32) {
    let scale = _mm512_set1_ps(attention.scale);
    let visible = |key: usize| QueryBlock::visible_lanes(query, attention.window, block.first_key + key);
    // SAFETY: `products` has `padded_keys` values.
    unsafe {
        let mut maximum = _mm512_set1_ps(f32::NEG_INFINITY);
        for key in (0..block.padded_keys).step_by(LANES) {
            let [product] = load(products.add(key));
            maximum = _mm512_mask_max_ps(maximum, visible(key), maximum, _mm512_mul_ps(product, scale));
        }
        let maximum = _mm512_reduce_max_ps(maximum);
        let mut sum = _mm512_setzero_ps();
        for key in (0..block.padded_keys).step_by(LANES) {
            let [product] = load(products.add(key));
            let exponential = exp(_mm512_sub_ps(_mm512_mul_ps(product, scale), _mm512_set1_ps(maximum)));
            let exponential = _mm512_maskz_mov_ps(visible(key), exponential);
            sum = _mm512_add_ps(sum, exponential);
            store(products.add(key), [exponential]);
        }
        let sum = _mm512_reduce_add_ps(sum);
        (maximum + sum.ln(), sum)
    }
}

/// Replaces a query's products with the block's keys by the attention weights w, and the weights' gradients g by the products' gradients
/// scale w (g - `grad_dot_out`).
///
/// `grad_dot_out` is the dot product of the query's result and its gradient, which equals Σ w g.
///
/// # Safety
/// `products` and `weight_grads` must be valid for `block.padded_keys` values.
#[target_feature(enable = "avx512f")]
unsafe fn softmax_backward(
    products: *mut f32,
    weight_grads: *mut f32,
    block: &QueryBlock,
    query: usize,
    attention: &Attention<'_>,
    log_sum: f32,
    grad_dot_out: f32,
) {
    let scale = _mm512_set1_ps(attention.scale);
    for key in (0..block.padded_keys).step_by(LANES) {
        // SAFETY: both have `padded_keys` values.
        unsafe {
            let ([product], [weight_grad]) = (load(products.add(key)), load(weight_grads.add(key)));
            let weight = exp(_mm512_sub_ps(_mm512_mul_ps(product, scale), _mm512_set1_ps(log_sum)));
            let weight = _mm512_maskz_mov_ps(QueryBlock::visible_lanes(query, attention.window, block.first_key + key), weight);
            store(products.add(key), [weight]);
            let product_grad = _mm512_mul_ps(_mm512_mul_ps(weight, scale), _mm512_sub_ps(weight_grad, _mm512_set1_ps(grad_dot_out)));
            store(weight_grads.add(key), [product_grad]);
        }
    }
}

/// The dot product of two vectors of `features` values.
///
/// # Safety
/// Both must be valid for `features` values, a multiple of `LANES`.
#[target_feature(enable = "avx512f")]
unsafe fn dot(a: *const f32, b: *const f32, features: usize) -> f32 {
    let mut sum = _mm512_setzero_ps();
    for feature in (0..features).step_by(LANES) {
        // SAFETY: both have `features` values.
        let ([a], [b]) = unsafe { (load(a.add(feature)), load(b.add(feature))) };
        sum = _mm512_fmadd_ps(a, b, sum);
    }
    _mm512_reduce_add_ps(sum)
}

/// Packs a head's [tokens, features], whose rows are `row_stride` values apart, as [features, tokens].
///
/// Tokens are padded with zeros to whole registers.
///
/// # Safety
/// `source` must be valid for the head's tokens.
unsafe fn pack_transposed(source: *const f32, row_stride: usize, head: &AttentionHead, packed: &mut Vec<f32>) {
    let padded_length = head.length.next_multiple_of(LANES);
    packed.clear();
    packed.resize(head.features * padded_length, 0.0);
    for (feature, feature_values) in packed.chunks_mut(padded_length).enumerate() {
        for (token, value) in feature_values[..head.length].iter_mut().enumerate() {
            // SAFETY: the caller guarantees the head's tokens.
            *value = unsafe { *source.add(token * row_stride + feature) };
        }
    }
}

/// A pointer to at least `count` values of `buffer`, which is enlarged if it is smaller.
fn sized_buffer(buffer: &mut Vec<f32>, count: usize) -> *mut f32 {
    if buffer.len() < count {
        buffer.resize(count, 0.0);
    }
    buffer.as_mut_ptr()
}
