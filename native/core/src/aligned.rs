//! Bytes that begin on a cache line, for kernels that load whole lines.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes, the first of them at an address that is a multiple of 64.
#[derive(Debug, Default)]
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Makes them `len`; whatever they held is lost.
    pub fn reset(&mut self, len: usize) {
        if self.bytes.len() < len + LINE {
            self.bytes = vec![0; len + LINE];
            self.start = self.bytes.as_ptr().align_offset(LINE);
        }
        self.len = len;
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_on_a_line_wherever_they_are_moved() {
        let mut bytes = Aligned::default();
        assert!(bytes.is_empty());
        for len in [1, 63, 64, 1000, 10] {
            bytes.reset(len);
            let moved = bytes;
            assert_eq!((moved.len(), moved.as_ptr() as usize % LINE), (len, 0));
            bytes = moved;
        }
    }
}
