//! An output tensor that several threads write to.

/// A pointer to the tensor. Each thread writes to separate elements.
#[derive(Clone, Copy)]
pub(crate) struct SharedOutput(*mut f32);

// SAFETY: sending or sharing the pointer itself is safe; where it is written to, no two threads write to the same element.
unsafe impl Send for SharedOutput {}
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    pub(crate) fn new(tensor: *mut f32) -> SharedOutput {
        SharedOutput(tensor)
    }

    /// # Safety
    /// `offset` must be within the tensor.
    pub(crate) unsafe fn offset(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller guarantees that the offset is within the tensor.
        unsafe { self.0.add(offset) }
    }
}
