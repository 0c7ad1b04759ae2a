//! Elements that begin on a cache line, for kernels that load whole lines.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Elements, the first of them at an address that is a multiple of 64. `T` is a type whose size divides 64.
#[derive(Debug, Default)]
pub struct Aligned<T> {
    elements: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// None.
    pub const fn new() -> Self {
        Self { elements: Vec::new(), start: 0, len: 0 }
    }

    /// Makes them `len`; what they hold is not specified.
    pub fn reset(&mut self, len: usize) {
        let room = LINE / const { size_of::<T>() };
        if self.elements.len() < len + room {
            self.elements = vec![T::default(); len + room];
            self.start = self.elements.as_ptr().align_offset(LINE);
        }
        self.len = len;
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
            elements.reset(len);
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
}
