//! Fetching what is decoded next.

use crate::codec::decode::CodedTile;
use std::arch::x86_64::*;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Fetches the tile behind the one that is decoded, line by line: a tile's parts are too short for the hardware prefetcher to
/// find its pace.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    /// Lines still to come.
    pub(super) lines: usize,
}

impl Ahead {
    /// The tile behind this one, which is taken to be as long.
    pub(super) fn of(tile: &CodedTile<'_>) -> Self {
        let behind = &tile.rest[tile.len..];
        Self { at: behind.as_ptr(), lines: (tile.roots.len() + tile.len) / LINE }
    }

    /// Fetches the next lines into the second cache.
    #[inline(always)]
    pub(super) fn fetch(&mut self, lines: usize) {
        for line in 0..lines {
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.wrapping_add(line * LINE).cast()) };
        }
        self.at = self.at.wrapping_add(lines * LINE);
        self.lines = self.lines.saturating_sub(lines);
    }
}
