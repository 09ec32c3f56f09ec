//! Causal attention over packed rows of tokens, and its gradients.
//!
//! Like FlashAttention (arXiv 2205.14135, 2307.08691), the forward pass keeps only the result and, for each query, the logarithm of the
//! softmax's divisor (log-sum-exp). FlashAttention processes keys in blocks. This kernel processes a block of queries with all
//! their keys at once; the weights of such a block fit into a core's cache.
//!
//! One head of one row is one task. Its keys are packed as [features, tokens]. All other tensors are read and written in place, as
//! [tokens, heads, features].

mod head;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use head::AttentionHead;
use head::ThreadBuffers;

use crate::base::threads;
use crate::kernels::shared_output::SharedOutput;

pub use head::{Attention, usable};

/// Values that one thread sums at a time when gradients of query heads are summed: 1 MiB.
const SUMMED_AT_ONCE: usize = 1 << 18;

impl Attention<'_> {
    /// The number of tokens of all rows, or `None` if it overflows.
    fn tokens(&self) -> Option<usize> {
        self.lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length))
    }

    /// Whether the shape is supported, and all element counts match it: `queries` those of tensors like the queries, `keys` those of
    /// tensors like the keys.
    pub fn fits(&self, queries: &[usize], keys: &[usize]) -> bool {
        let element_count = |heads: usize| self.tokens()?.checked_mul(heads)?.checked_mul(self.features);
        usable(self.features)
            && self.heads > 0
            && self.key_heads > 0
            && self.heads.is_multiple_of(self.key_heads)
            && self.window > 0
            && queries.iter().all(|count| Some(*count) == element_count(self.heads))
            && keys.iter().all(|count| Some(*count) == element_count(self.key_heads))
    }

    /// Computes attention.
    ///
    /// `queries` and `out` are [tokens, heads, features]; `keys` and `values` are [tokens, key heads, features]. `logsumexp`,
    /// [tokens, heads], receives ln Σ exp(scale query · key) of each query. The result does not depend on `threads`.
    ///
    /// # Panics
    /// If [`Attention::fits`] is false for these tensors, or `logsumexp` has another length.
    pub fn forward(&self, [queries, keys, values]: [&[f32]; 3], out: &mut [f32], logsumexp: &mut [f32], threads: usize) {
        assert!(self.fits(&[queries.len(), out.len()], &[keys.len(), values.len()]) && logsumexp.len() * self.features == out.len());
        let (out, logsumexp) = (SharedOutput::new(out.as_mut_ptr()), SharedOutput::new(logsumexp.as_mut_ptr()));
        self.for_each_head(threads, |head, buffers| {
            let query_offset = head.offset(self.heads, head.index);
            let key_offset = head.offset(self.key_heads, head.key_head(self));
            // SAFETY: the sizes are checked, the processor has AVX-512, and no other task writes to this head of this row.
            unsafe {
                let inputs = [&queries[query_offset..], &keys[key_offset..], &values[key_offset..]].map(<[f32]>::as_ptr);
                let logsumexp = logsumexp.offset(head.first_token * self.heads + head.index);
                head.forward(self, inputs, out.offset(query_offset), logsumexp, buffers);
            }
        });
    }

    /// Computes the gradients of queries, keys and values.
    ///
    /// `grad` is the gradient of the result `out`; `out` and `logsumexp` are those that [`Attention::forward`] wrote. Each gradient has
    /// the shape of its tensor. The result does not depend on `threads`.
    ///
    /// # Panics
    /// If [`Attention::fits`] is false for these tensors, or `logsumexp` has another length.
    pub fn backward(
        &self,
        [queries, keys, values, out, grad]: [&[f32]; 5],
        logsumexp: &[f32],
        [queries_grad, keys_grad, values_grad]: [&mut [f32]; 3],
        threads: usize,
    ) {
        let like_queries = [queries.len(), out.len(), grad.len(), queries_grad.len()];
        assert!(self.fits(&like_queries, &[keys.len(), values.len(), keys_grad.len(), values_grad.len()]));
        assert!(logsumexp.len() * self.features == out.len());
        // If query heads share a key head, each writes separate key and value gradients, which are summed at the end.
        let one_key_head_each = self.heads == self.key_heads;
        let per_head_size = if one_key_head_each { 0 } else { queries.len() };
        let mut per_head_grads = [vec![0.0; per_head_size], vec![0.0; per_head_size]];
        let [per_head_keys, per_head_values] = &mut per_head_grads;
        let keys_target = SharedOutput::new(if one_key_head_each { keys_grad.as_mut_ptr() } else { per_head_keys.as_mut_ptr() });
        let values_target = SharedOutput::new(if one_key_head_each { values_grad.as_mut_ptr() } else { per_head_values.as_mut_ptr() });
        let queries_target = SharedOutput::new(queries_grad.as_mut_ptr());
        self.for_each_head(threads, |head, buffers| {
            let query_offset = head.offset(self.heads, head.index);
            let key_offset = head.offset(self.key_heads, head.key_head(self));
            // SAFETY: as in `forward`.
            unsafe {
                let inputs =
                    [&queries[query_offset..], &keys[key_offset..], &values[key_offset..], &out[query_offset..], &grad[query_offset..]];
                let logsumexp = logsumexp[head.first_token * self.heads + head.index..].as_ptr();
                let outputs = [queries_target, keys_target, values_target].map(|target| target.offset(query_offset));
                head.backward(self, inputs.map(<[f32]>::as_ptr), logsumexp, outputs, buffers);
            }
        });
        if !one_key_head_each {
            for (sums, per_head) in [keys_grad, values_grad].into_iter().zip(&per_head_grads) {
                self.sum_over_query_heads(per_head, sums, threads);
            }
        }
    }

    /// Sums the gradients of the query heads that share a key head: [tokens, heads, features] to [tokens, key heads, features].
    fn sum_over_query_heads(&self, per_head: &[f32], sums: &mut [f32], threads: usize) {
        let group_size = self.heads / self.key_heads * self.features;
        let groups_at_once = (SUMMED_AT_ONCE / group_size).max(1);
        let parts = per_head.chunks(groups_at_once * group_size).zip(sums.chunks_mut(groups_at_once * self.features));
        threads::for_each_item(parts.collect(), threads, |(per_head, sums)| {
            for (group, sums) in per_head.chunks(group_size).zip(sums.chunks_mut(self.features)) {
                sums.copy_from_slice(&group[..self.features]);
                for head in group.chunks(self.features).skip(1) {
                    sums.iter_mut().zip(head).for_each(|(sum, value)| *sum += value);
                }
            }
        });
    }

    /// Runs `work` on each head of each row. Threads take the heads from one queue, those of the longest rows first.
    fn for_each_head(&self, threads: usize, work: impl Fn(&AttentionHead, &mut ThreadBuffers) + Sync) {
        let mut heads = Vec::with_capacity(self.lengths.len() * self.heads);
        let mut first_token = 0;
        for &length in self.lengths {
            heads.extend((0..self.heads).map(|index| AttentionHead { first_token, length, index, features: self.features }));
            first_token += length;
        }
        heads.retain(|head| head.length > 0);
        heads.sort_by_key(|head| std::cmp::Reverse(head.length));
        let next = AtomicUsize::new(0);
        threads::on_threads(threads.min(heads.len()), || {
            let mut buffers = ThreadBuffers::default();
            while let Some(head) = heads.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(head, &mut buffers);
            }
        });
    }
}

impl AttentionHead {
    /// The offset of head `index` of the row's first token in a tensor [tokens, heads, features].
    fn offset(&self, heads: usize, index: usize) -> usize {
        (self.first_token * heads + index) * self.features
    }

    /// The index of the key head that serves this query head.
    fn key_head(&self, attention: &Attention<'_>) -> usize {
        self.index / (attention.heads / attention.key_heads)
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl AttentionHead {
    unsafe fn forward(&self, _: &Attention<'_>, _: [*const f32; 3], _: *mut f32, _: *mut f32, _: &mut ThreadBuffers) {
        unreachable!("`usable` is false here: {self:?}");
    }

    unsafe fn backward(&self, _: &Attention<'_>, _: [*const f32; 5], _: *const f32, _: [*mut f32; 3], _: &mut ThreadBuffers) {
        unreachable!("`usable` is false here: {self:?}");
    }
}
