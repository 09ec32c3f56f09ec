//! The slots of a model with adapters: a slot answers one request at a time and keeps what it computed of the prompt. llama.cpp reuses that
//! for a request with another adapter, whose answer is then wrong (its issue 26207). So each request is pinned to a slot, and may use what
//! is there only if the same adapter made it.
//!
//! A model without adapters has the same number of answers at once, and llama.cpp chooses the slots.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Which adapter made what a slot holds. `None`: the model alone.
pub(crate) type AdapterIndex = Option<usize>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotContent {
    Empty,
    Of(AdapterIndex),
    /// Of several, or not known.
    Mixed,
}

#[derive(Debug)]
pub(crate) struct Slots {
    /// Free slots, those free for the longest time first.
    free: Mutex<VecDeque<(u32, SlotContent)>>,
    permits: Arc<Semaphore>,
    count: u32,
}

/// A slot, or all of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct SlotLease {
    slots: Arc<Slots>,
    held: Vec<(u32, SlotContent)>,
    /// Whether llama.cpp may use what the slot holds.
    pub(crate) reusable: bool,
    after: SlotContent,
    /// Returned after the slots: fields are dropped in order, after `drop`.
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(count: u32) -> Arc<Slots> {
        let free = (0..count).map(|id| (id, SlotContent::Empty)).collect();
        Arc::new(Slots { free: Mutex::new(free), permits: Arc::new(Semaphore::new(count as usize)), count })
    }

    /// Waits for a slot.
    pub(crate) async fn one(self: &Arc<Slots>, adapter: AdapterIndex) -> SlotLease {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let mut free = self.lock();
        let place = |content| free.iter().position(|(_, holds)| *holds == content);
        let index = place(SlotContent::Of(adapter)).or_else(|| place(SlotContent::Empty)).unwrap_or(0);
        let slot = free.remove(index).expect("as many permits as slots");
        drop(free);
        let reusable = matches!(slot.1, SlotContent::Empty) || slot.1 == SlotContent::Of(adapter);
        SlotLease { slots: Arc::clone(self), held: vec![slot], reusable, after: SlotContent::Of(adapter), _permit: permit }
    }

    /// Waits for all slots: of a request for several answers llama.cpp chooses them.
    pub(crate) async fn all(self: &Arc<Slots>) -> SlotLease {
        let permit = Arc::clone(&self.permits).acquire_many_owned(self.count).await.expect("the semaphore is never closed");
        let held = self.lock().drain(..).collect();
        SlotLease { slots: Arc::clone(self), held, reusable: false, after: SlotContent::Mixed, _permit: permit }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(u32, SlotContent)>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotLease {
    /// The slot, if it is one.
    pub(crate) fn id(&self) -> Option<u32> {
        if let [(id, _)] = self.held[..] { Some(id) } else { None }
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        let after = self.after;
        self.slots.lock().extend(self.held.drain(..).map(|(id, _)| (id, after)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn what_another_adapter_made_is_not_reused() {
        wait(async {
            let slots = Slots::new(2);
            let base = slots.one(None).await;
            let tuned = slots.one(Some(0)).await;
            assert!(base.reusable && tuned.reusable && base.id() != tuned.id());
            let (base_id, tuned_id) = (base.id(), tuned.id());
            drop(base);
            drop(tuned);
            // Each finds its own slot again, whatever became free first.
            let tuned = slots.one(Some(0)).await;
            assert!(tuned.reusable && tuned.id() == tuned_id);
            let other = slots.one(Some(1)).await;
            assert!(!other.reusable && other.id() == base_id, "the slot of another");
            drop(other);
            let other = slots.one(Some(1)).await;
            assert!(other.reusable && other.id() == base_id, "now it is its own");
        });
    }

    #[test]
    fn all_slots_are_of_nobody_afterwards() {
        wait(async {
            let slots = Slots::new(2);
            drop(slots.one(Some(0)).await);
            let all = slots.all().await;
            assert!(!all.reusable && all.id().is_none());
            drop(all);
            assert!(!slots.one(Some(0)).await.reusable);
        });
    }

    #[test]
    fn a_request_waits_for_a_slot() {
        wait(async {
            let slots = Slots::new(1);
            let held = slots.one(None).await;
            let mut next = Box::pin(slots.one(None));
            assert!(std::future::poll_fn(|context| std::task::Poll::Ready(next.as_mut().poll(context).is_pending())).await);
            drop(held);
            assert!(next.await.reusable);
        });
    }
}
