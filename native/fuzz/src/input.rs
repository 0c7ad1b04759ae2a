//! Bytes of the fuzzer, read from the front; zeros when they run out.

/// What is left.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Two bytes, little-endian.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Any number, mostly a small one.
    pub fn number(&mut self) -> i64 {
        match self.byte() {
            200.. => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            small => i64::from(small as i8),
        }
    }

    /// Up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A size from 1 to `limit`.
    pub fn size(&mut self, limit: usize) -> usize {
        1 + usize::from(self.word()) % limit
    }
}
