//! Elements that begin on a cache line, for kernels that load whole lines.

use crate::error::{Error, with_room};
use std::alloc::{Layout, alloc_zeroed};
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Elements, the first of them at an address that is a multiple of 64. `T` is a type whose size divides 64.
#[derive(Debug, Default)]
pub struct Aligned<T> {
    elements: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// Makes them `len`, for `what`; what they hold is not specified.
    pub fn reset(&mut self, len: usize, what: &'static str) -> Result<(), Error> {
        let room = LINE / const { size_of::<T>() };
        if self.elements.len() < len.saturating_add(room) {
            let mut elements = with_room(len.saturating_add(room), what)?;
            elements.resize(len + room, T::default());
            self.elements = elements;
            self.start = self.elements.as_ptr().align_offset(LINE);
        }
        self.len = len;
        Ok(())
    }
}

impl Aligned<u8> {
    /// `len` zeros for `what`, from pages that the system has not touched yet; an error where they cannot be had.
    pub fn zeroed(len: usize, what: &'static str) -> Result<Self, Error> {
        let refused = Error::Memory { what, bytes: len };
        let Some(all) = len.checked_add(LINE) else { return Err(refused) };
        let Ok(layout) = Layout::array::<u8>(all) else { return Err(refused) };
        // SAFETY: the layout is of LINE bytes at least.
        let first = unsafe { alloc_zeroed(layout) };
        if first.is_null() {
            return Err(refused);
        }
        // SAFETY: the global allocator gave these bytes, all of them zero, for the layout that a vector of this capacity has.
        let elements = unsafe { Vec::from_raw_parts(first, all, all) };
        let start = elements.as_ptr().align_offset(LINE);
        Ok(Self { elements, start, len })
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.elements[self.start..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.elements[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Copy + Default>() {
        let mut elements = Aligned::<T>::default();
        assert!(elements.is_empty());
        for len in [1, 63, 64, 1000, 10] {
            elements.reset(len, "elements").unwrap();
            let moved = elements;
            assert_eq!((moved.len(), moved.as_ptr() as usize % LINE), (len, 0));
            elements = moved;
        }
    }

    #[test]
    fn they_begin_on_a_line_wherever_they_are_moved() {
        check::<u8>();
        check::<i32>();
    }

    #[test]
    fn more_than_can_be_had_is_an_error_and_changes_nothing() {
        let mut elements = Aligned::<i32>::default();
        elements.reset(100, "sums").unwrap();
        for len in [usize::MAX, isize::MAX as usize] {
            assert!(matches!(elements.reset(len, "sums"), Err(Error::Memory { what: "sums", .. })));
            assert_eq!(elements.len(), 100);
        }
    }

    #[test]
    fn zeros_that_cannot_be_had_are_an_error() {
        let zeros = Aligned::zeroed(1000, "zeros").unwrap();
        assert_eq!((zeros.len(), zeros.as_ptr() as usize % LINE), (1000, 0));
        assert!(zeros.iter().all(|&byte| byte == 0));
        for len in [usize::MAX, isize::MAX as usize] {
            assert_eq!(Aligned::zeroed(len, "zeros").unwrap_err(), Error::Memory { what: "zeros", bytes: len });
        }
    }
}
