//! Where things lie in `x2`.

/// Tiles begin at multiples of this in `x2`.
pub const ALIGN: usize = 64;
/// Zero bytes behind the last tile, so that a 64-byte load of its last byte stays inside.
pub const TAIL: usize = 64;

/// What version 5 of the format leaves out; version 3 leaves out nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Omissions {
    /// Root fields outside of the weight: see [`edges`](super::edges).
    pub edges: bool,
    /// The tail, and the padding of the last tile.
    pub tail: bool,
}

impl Omissions {
    /// As the header has them.
    pub fn bits(self) -> u8 {
        u8::from(self.edges) | u8::from(self.tail) << 1
    }

    /// The inverse of [`Self::bits`].
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits < 4).then_some(Self { edges: bits & 1 != 0, tail: bits & 2 != 0 })
    }

    /// Zero bytes behind the last tile.
    pub fn tail_len(self) -> usize {
        if self.tail { 0 } else { TAIL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omissions_as_a_header_has_them() {
        for (bits, edges, tail, len) in
            [(0, false, false, 64), (1, true, false, 64), (2, false, true, 0), (3, true, true, 0)]
        {
            let omissions = Omissions { edges, tail };
            assert_eq!((omissions.bits(), omissions.tail_len()), (bits, len));
            assert_eq!(Omissions::from_bits(bits), Some(omissions));
        }
        assert!((4..=255).all(|bits| Omissions::from_bits(bits).is_none()));
    }
}
