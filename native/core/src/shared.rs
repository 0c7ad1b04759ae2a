//! Memory that several threads write to, each to other elements of it.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Elements that are borrowed for as long, by all threads together.
pub(crate) struct Shared<'a, T = u8> {
    data: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: a pointer to memory that is borrowed for as long; writing through it is unsafe by itself.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(elements: &'a mut [T]) -> Self {
        Self { data: elements.as_mut_ptr(), len: elements.len(), lifetime: PhantomData }
    }

    /// Elements that nobody has written yet.
    pub(crate) fn unwritten(elements: &'a mut [MaybeUninit<T>]) -> Self {
        Self { data: elements.as_mut_ptr().cast(), len: elements.len(), lifetime: PhantomData }
    }

    /// The address of element `at`, from where on there are `len` more.
    ///
    /// # Panics
    /// If there are not.
    pub(crate) fn at(&self, at: usize, len: usize) -> *mut T {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "inside of the memory");
        // SAFETY: the assertion says that this is inside of the memory.
        unsafe { self.data.add(at) }
    }

    /// `len` elements from `at` on.
    ///
    /// # Panics
    /// If there are not so many.
    ///
    /// # Safety
    /// They are written, and nobody else has them meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the caller answers for it")]
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        // SAFETY: they are inside of the memory, as `at` asserts; the rest is the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.at(at, len), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_inside_is_refused() {
        let mut elements = [0_u8; 10];
        let shared = Shared::new(&mut elements);
        assert_eq!(shared.at(4, 6), shared.at(0, 10).wrapping_add(4));
        for (at, len) in [(0, 11), (10, 1), (11, 0), (usize::MAX, 2)] {
            assert!(std::panic::catch_unwind(|| shared.at(at, len)).is_err(), "{at} {len}");
        }
    }

    #[test]
    fn threads_write_each_its_own_part() {
        let mut elements = [0_u32; 64];
        let shared = &Shared::new(&mut elements);
        std::thread::scope(|scope| {
            for task in 0..4 {
                // SAFETY: the parts of tasks do not overlap.
                scope.spawn(move || unsafe { shared.part(task * 16, 16) }.fill(task as u32));
            }
        });
        assert!(elements.iter().zip(0..).all(|(&found, i)| found == i / 16));
    }
}
