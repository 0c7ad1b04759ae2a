//! Fetching what is decoded next.

use crate::aligned::LINE;
use crate::codec::decode::CodedTile;
use crate::geometry::GROUPS;
use std::arch::x86_64::*;

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

/// What is still to be fetched, a few lines for each fractal, each at a step of its own: a processor has some sixteen places
/// for lines on their way to its first cache, and a burst of fetches takes those that loads from the second cache need.
#[derive(Clone, Copy)]
pub(super) struct Paced {
    at: *const u8,
    /// The steps of a fractal at which a line is fetched, a bit for each.
    steps: u8,
}

impl Ahead {
    /// The lines still to come, for so many fractals: up to a line for each of their groups.
    pub(super) fn paced(self, fractals: usize) -> Paced {
        let lines = self.lines.div_ceil(fractals).min(GROUPS);
        let steps = (0..GROUPS).filter(|step| (step + 1) * lines / GROUPS > step * lines / GROUPS);
        Paced { at: self.at, steps: steps.fold(0, |bits, step| bits | 1 << step) }
    }
}

impl Paced {
    /// Fetches the line of a step of a fractal, if it has one.
    #[inline(always)]
    pub(super) fn fetch<const STEP: usize>(&mut self) {
        if self.steps & 1 << STEP != 0 {
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) };
            self.at = self.at.wrapping_add(LINE);
        }
    }
}
