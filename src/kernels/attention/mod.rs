//! Causal attention over packed rows of tokens, and its gradients.
//!
//! What FlashAttention (arXiv 2205.14135, 2307.08691) keeps, this keeps: the result and for each query the logarithm of its
//! softmax's divisor. But where that takes keys block by block, here a few queries meet all their keys at once, whose weights fit
//! into a core's cache. A row's head is one task; its keys are laid out anew, features by tokens, and everything else is read and
//! written where it lies, [tokens, heads, features].

mod head;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use head::Head;
use head::Scratch;

pub use head::{Attention, usable};

impl Attention<'_> {
    /// Nothing where they are more than can be counted.
    fn tokens(&self) -> Option<usize> {
        self.lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length))
    }

    /// Whether there are as many numbers as there have to be, for the queries and for the keys.
    pub fn fits(&self, queries: &[usize], keys: &[usize]) -> bool {
        let of = |heads: usize| self.tokens()?.checked_mul(heads)?.checked_mul(self.features);
        usable(self.features)
            && self.heads > 0
            && self.key_heads > 0
            && self.heads.is_multiple_of(self.key_heads)
            && self.window > 0
            && queries.iter().all(|count| Some(*count) == of(self.heads))
            && keys.iter().all(|count| Some(*count) == of(self.key_heads))
    }

    /// Writes the result to `out`, [tokens, heads, features] as the queries, and to `divisors`, [tokens, heads], for each query
    /// ln Σ exp(scale query · key). Keys and values are [tokens, key heads, features]. The result does not depend on `threads`.
    pub fn forward(&self, [queries, keys, values]: [&[f32]; 3], out: &mut [f32], divisors: &mut [f32], threads: usize) {
        assert!(self.fits(&[queries.len(), out.len()], &[keys.len(), values.len()]) && divisors.len() * self.features == out.len());
        let (out, divisors) = (Shared(out.as_mut_ptr()), Shared(divisors.as_mut_ptr()));
        self.each_head(threads, |head, scratch| {
            let (of_head, of_keys) = (head.start(self.heads, head.number), head.start(self.key_heads, head.key_number(self)));
            // SAFETY: the sizes are checked, the processor has AVX-512, and no other task writes to this head of this row.
            unsafe {
                let inputs = [&queries[of_head..], &keys[of_keys..], &values[of_keys..]].map(<[f32]>::as_ptr);
                head.forward(self, inputs, out.at(of_head), divisors.at(head.first * self.heads + head.number), scratch);
            }
        });
    }

    /// Writes the gradients of queries, keys and values, given that of the result and what `forward` has made.
    pub fn backward(
        &self,
        [queries, keys, values, out, grad]: [&[f32]; 5],
        divisors: &[f32],
        [queries_grad, keys_grad, values_grad]: [&mut [f32]; 3],
        threads: usize,
    ) {
        let like_queries = [queries.len(), out.len(), grad.len(), queries_grad.len()];
        assert!(self.fits(&like_queries, &[keys.len(), values.len(), keys_grad.len(), values_grad.len()]));
        assert!(divisors.len() * self.features == out.len());
        // Heads that share keys have gradients of their own for them, which are added up at the end.
        let alone = self.heads == self.key_heads;
        let size = if alone { 0 } else { queries.len() };
        let mut own = [vec![0.0; size], vec![0.0; size]];
        let [own_keys, own_values] = &mut own;
        let to_keys = Shared(if alone { keys_grad.as_mut_ptr() } else { own_keys.as_mut_ptr() });
        let to_values = Shared(if alone { values_grad.as_mut_ptr() } else { own_values.as_mut_ptr() });
        let to_queries = Shared(queries_grad.as_mut_ptr());
        self.each_head(threads, |head, scratch| {
            let (of_head, of_keys) = (head.start(self.heads, head.number), head.start(self.key_heads, head.key_number(self)));
            // SAFETY: as in `forward`.
            unsafe {
                let inputs = [&queries[of_head..], &keys[of_keys..], &values[of_keys..], &out[of_head..], &grad[of_head..]];
                let divisors = divisors[head.first * self.heads + head.number..].as_ptr();
                let outputs = [to_queries.at(of_head), to_keys.at(of_head), to_values.at(of_head)];
                head.backward(self, inputs.map(<[f32]>::as_ptr), divisors, outputs, scratch);
            }
        });
        if !alone {
            for (sums, own) in [keys_grad, values_grad].into_iter().zip(&own) {
                self.add_up(own, sums);
            }
        }
    }

    /// From [tokens, heads, features] to [tokens, key heads, features].
    fn add_up(&self, own: &[f32], sums: &mut [f32]) {
        let group = self.heads / self.key_heads * self.features;
        for (heads, sums) in own.chunks(group).zip(sums.chunks_mut(self.features)) {
            sums.copy_from_slice(&heads[..self.features]);
            for head in heads.chunks(self.features).skip(1) {
                sums.iter_mut().zip(head).for_each(|(sum, number)| *sum += number);
            }
        }
    }

    /// Has threads take the heads of the rows in turn, those of the longest first.
    fn each_head(&self, threads: usize, work: impl Fn(&Head, &mut Scratch) + Sync) {
        let mut heads = Vec::with_capacity(self.lengths.len() * self.heads);
        let mut first = 0;
        for &length in self.lengths {
            heads.extend((0..self.heads).map(|number| Head { first, length, number, features: self.features }));
            first += length;
        }
        heads.retain(|head| head.length > 0);
        heads.sort_by_key(|head| std::cmp::Reverse(head.length));
        let next = AtomicUsize::new(0);
        let run = || {
            let mut scratch = Scratch::default();
            while let Some(head) = heads.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(head, &mut scratch);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(heads.len()) {
                scope.spawn(run);
            }
            run();
        });
    }
}

impl Head {
    /// Where head `number` of `heads` begins in the row's first token.
    fn start(&self, heads: usize, number: usize) -> usize {
        (self.first * heads + number) * self.features
    }

    /// The head of keys that this one sees.
    fn key_number(&self, attention: &Attention<'_>) -> usize {
        self.number / (attention.heads / attention.key_heads)
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Head {
    unsafe fn forward(&self, _: &Attention<'_>, _: [*const f32; 3], _: *mut f32, _: *mut f32, _: &mut Scratch) {
        unreachable!("`usable` is false here: {self:?}");
    }

    unsafe fn backward(&self, _: &Attention<'_>, _: [*const f32; 5], _: *const f32, _: [*mut f32; 3], _: &mut Scratch) {
        unreachable!("`usable` is false here: {self:?}");
    }
}

/// Where threads write, each its own numbers.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: see the places of use; the pointer itself may go anywhere.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    unsafe fn at(self, place: usize) -> *mut f32 {
        // SAFETY: the caller vouches for the place.
        unsafe { self.0.add(place) }
    }
}
