//! Aligned memory that products reuse, and pointers that threads share.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Bytes, aligned to a cache line. New memory is zero.
#[derive(Default)]
pub(super) struct Bytes(Option<(NonNull<u8>, Layout)>);

// SAFETY: this value owns the memory, which is bound to no thread.
unsafe impl Send for Bytes {}

impl Bytes {
    const ALIGN: usize = 64;

    /// Makes room for `size` bytes. The contents may be lost.
    pub(super) fn at_least(&mut self, size: usize) {
        if self.0.is_some_and(|(_, layout)| layout.size() >= size) {
            return;
        }
        self.free();
        let layout = Layout::from_size_align(size.max(1), Self::ALIGN).expect("sizes of tensors fit");
        // SAFETY: the layout has at least one byte.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        self.0 = Some((ptr, layout));
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.0.map_or(std::ptr::null(), |(ptr, _)| ptr.as_ptr().cast_const())
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.map_or(std::ptr::null_mut(), |(ptr, _)| ptr.as_ptr())
    }

    fn free(&mut self) {
        if let Some((ptr, layout)) = self.0.take() {
            // SAFETY: allocated with this layout, and not freed since.
            unsafe { dealloc(ptr.as_ptr(), layout) };
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.free();
    }
}

/// A pointer that threads share. Each thread must access separate bytes, or bytes that no thread writes.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub(super) *mut T);

// SAFETY: sending a pointer is harmless. Dereferencing it is unsafe, and each such block states why there is no data
// race.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Returns the pointer. This is a method so that a closure captures the whole value and not the field.
    pub(super) fn get(&self) -> *mut T {
        self.0
    }
}
