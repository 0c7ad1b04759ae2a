//! Sums of the weights that are continued, built from the deepest level up:
//!
//! ```text
//! sums = the escapes
//! for each level, last first:
//!     for 64 bits of the level: next sums = expand(sums) into the lanes of the ones, 0 elsewhere, + a step
//! ```

use super::expand::{BEHIND, expand};
use crate::arch::operands::TileCode;
use crate::codec::decode::CodedTile;
use crate::geometry::GROUP;
use std::arch::aarch64::*;

/// Builds the sums of a tile's continued weights in the first of `sums`, `limit` of them at the most, with what is read behind them.
/// Gives their number, or `None` if the tile is damaged.
#[target_feature(enable = "neon")]
pub fn continuations(code: &TileCode, tile: &CodedTile<'_>, limit: usize, sums: &mut [Vec<u8>; 2]) -> Option<usize> {
    let levels = code.code.levels();
    let starts = tile.starts(levels, limit)?;
    for sums in &mut *sums {
        sums.resize(limit + GROUP + BEHIND, 0);
    }
    let step = vdupq_n_u8(code.code.sum_step());
    // Sums are at last counted from the first offset that is continued, and become what an offset differs by.
    let first = vdupq_n_u8(code.code.first_continued());
    let differing = |sums| veorq_u8(vaddq_u8(sums, first), first);
    let [even, odd] = sums;
    let (start, escapes) = starts[levels];
    let deepest = if levels.is_multiple_of(2) { &mut *even } else { &mut *odd };
    deepest[..escapes].copy_from_slice(&tile.rest[start..start + escapes]);
    if levels < 2 {
        for at in (0..escapes).step_by(16) {
            let sums = differing(load(deepest, at));
            store(deepest, at, sums);
        }
    }
    for d in (0..levels).rev() {
        let (own, below) = if d % 2 == 0 { (&mut *even, &*odd) } else { (&mut *odd, &*even) };
        let level = tile.words(starts[d]);
        // At level 0 a weight that goes no further keeps its root field.
        let taken = match d {
            0 => expand_level(level, below, own, |entries| entries),
            1 => expand_level(level, below, own, |entries| differing(vaddq_u8(entries, step))),
            _ => expand_level(level, below, own, |entries| vaddq_u8(entries, step)),
        };
        if taken != starts[d + 1].1 {
            return None;
        }
    }
    Some(starts[0].1)
}

/// Builds a level's sums in `own` from those of the level below: the entries whose bits are ones take the next of them each, and `add`
/// is done to all. Gives the number of ones.
#[inline]
#[target_feature(enable = "neon")]
fn expand_level(
    words: impl Iterator<Item = u64>,
    below: &[u8],
    own: &mut [u8],
    add: impl Fn(uint8x16_t) -> uint8x16_t,
) -> usize {
    let mut taken = 0;
    for (w, bits) in words.enumerate() {
        // No more is taken than entries are passed, of which no level has more than the buffers are made for.
        let (entries, ones) = expand(bits, &below[taken..]);
        for (i, entries) in entries.into_iter().enumerate() {
            store(own, GROUP * w + 16 * i, add(entries));
        }
        taken += ones;
    }
    taken
}

#[inline]
#[target_feature(enable = "neon")]
fn load(from: &[u8], at: usize) -> uint8x16_t {
    let from: &[u8; 16] = from[at..].first_chunk().expect("buffers reach behind what they hold");
    // SAFETY: sixteen bytes are what is read.
    unsafe { vld1q_u8(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(to: &mut [u8], at: usize, value: uint8x16_t) {
    let to: &mut [u8; 16] = to[at..].first_chunk_mut().expect("buffers reach behind what they hold");
    // SAFETY: sixteen bytes are what is written.
    unsafe { vst1q_u8(to.as_mut_ptr(), value) };
}
