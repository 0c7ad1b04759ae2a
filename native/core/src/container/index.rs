//! `compress_index`: 8 bytes a tile.

use super::layout::ALIGN;

/// Bytes of an entry.
pub const ENTRY: usize = 8;

/// How a tile is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Root fields and continuations.
    Coded,
    /// Symbols in kernel order, uncoded.
    Raw,
    /// All weights are this symbol; nothing in `x2`.
    Constant(u8),
}

/// One entry: low word = kind in 2 bits, then offset / 64 (or the constant) in 30; high word = CRC-32 of the
/// tile's extent (0 for a constant).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Byte offset in `x2`, a multiple of 64; 0 for a constant.
    pub offset: u64,
    pub crc: u32,
}

/// The largest offset that an entry can hold.
const MAX_OFFSET: u64 = ((1 << 30) - 1) * ALIGN as u64;

/// Whether an entry can hold an offset.
pub fn holds(offset: u64) -> bool {
    offset <= MAX_OFFSET
}

impl Entry {
    pub fn to_bytes(self) -> [u8; ENTRY] {
        let units = (self.offset / ALIGN as u64) as u32;
        let word = match self.kind {
            Kind::Coded => units << 2,
            Kind::Raw => units << 2 | 1,
            Kind::Constant(symbol) => u32::from(symbol) << 2 | 2,
        };
        let mut b = [0; ENTRY];
        b[..4].copy_from_slice(&word.to_le_bytes());
        b[4..].copy_from_slice(&self.crc.to_le_bytes());
        b
    }

    /// `None` if the entry is one that no encoder writes.
    pub fn from_bytes(b: [u8; ENTRY]) -> Option<Self> {
        let word = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let crc = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        let offset = u64::from(word >> 2) * ALIGN as u64;
        Some(match word & 3 {
            0 => Self { kind: Kind::Coded, offset, crc },
            1 => Self { kind: Kind::Raw, offset, crc },
            2 => {
                let symbol = u8::try_from(word >> 2).ok()?;
                if crc != 0 {
                    return None;
                }
                Self { kind: Kind::Constant(symbol), offset: 0, crc: 0 }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_end_below_64_gib() {
        assert_eq!(MAX_OFFSET, (64 << 30) - 64);
        assert_eq!([0, MAX_OFFSET, MAX_OFFSET + 1, u64::MAX].map(holds), [true, true, false, false]);
    }

    #[test]
    fn entries_round_trip() {
        for kind in [Kind::Coded, Kind::Raw] {
            for offset in [0, 64, MAX_OFFSET] {
                let e = Entry { kind, offset, crc: 0xdead_beef };
                assert_eq!(Entry::from_bytes(e.to_bytes()), Some(e));
            }
        }
        let constant = Entry { kind: Kind::Constant(200), offset: 0, crc: 0 };
        assert_eq!(Entry::from_bytes(constant.to_bytes()), Some(constant));
        assert_eq!(Entry::from_bytes([2, 4, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Entry::from_bytes([2, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(Entry::from_bytes([3, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
