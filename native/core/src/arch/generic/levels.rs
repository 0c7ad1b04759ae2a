//! Sums of the weights that are continued, built from the deepest level up:
//!
//! ```text
//! sums = the escapes
//! for each level, last first:
//!     for 64 bits of the level: next sums = expand(sums) into the lanes of the ones, 0 elsewhere, + a step
//! ```

use super::group::Expand;
use crate::arch::operands::TileCode;
use crate::codec::decode::CodedTile;
use crate::geometry::GROUP;

/// Blocks of 64 entries of a level for each call of [`Interleaved::step`].
const BLOCKS_A_STEP: usize = 4;

/// What a kernel does beside building levels, which take a third of the time with one row and leave memory at rest.
pub trait Interleaved: Copy {
    /// Done now and then.
    fn step(&mut self);
}

/// Nothing.
impl Interleaved for () {
    #[inline(always)]
    fn step(&mut self) {}
}

/// Builds the sums of a tile's continued weights in `sums[0]`, at most `limit` of them. Gives their number, or `None` if
/// the tile is damaged. Behind each level but the first, last first, `level_end` is called with its entries and number.
///
/// # Safety
/// As [`Group`](super::Group) says; 64 bytes behind `tile.len` are readable; both sums have `limit` + 64 bytes.
#[inline(always)]
pub unsafe fn continuations<G: Expand, B: Interleaved>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    limit: usize,
    sums: [*mut u8; 2],
    interleaved: &mut B,
    mut level_end: impl FnMut(usize, usize),
) -> Option<usize> {
    assert!(tile.rest.len() >= tile.len + GROUP);
    let levels = code.code.levels();
    let rest = tile.rest.as_ptr();
    let starts = tile.starts(levels, limit)?;
    let (start, escapes) = starts[levels];
    // Copied: should the file have changed, a level may have more ones than were counted, and what they take must lie in
    // memory of our own.
    let mut below = sums[levels % 2];
    // SAFETY: the escapes end inside of the tile, as was checked, behind which 64 bytes are readable; they are no more than
    // `limit`, and both sums have room for 64 more.
    unsafe {
        let escaped = rest.add(start);
        if levels < 2 {
            let first = G::splat(code.code.first_continued());
            for at in (0..escapes).step_by(GROUP) {
                differing(G::load(escaped.add(at)), first).store(below.add(at));
            }
        } else {
            escaped.copy_to_nonoverlapping(below, escapes);
        }
    }
    for d in (0..levels).rev() {
        let (start, count) = starts[d];
        let own = sums[d % 2];
        // SAFETY: the level is inside of the tile, behind which 64 bytes are readable. No level has more than `limit` entries, so
        // whatever its bits are by now, no more are taken from the level below; both sums have room for `limit` + 64.
        let taken = unsafe {
            let (bits, step) = (rest.add(start), G::splat(code.code.sum_step()));
            let first = G::splat(code.code.first_continued());
            // At level 0 a weight that goes no further keeps its root field.
            match d {
                0 => expand_level::<G, B>(bits, count, below, own, interleaved, |entries| entries),
                1 => expand_level(bits, count, below, own, interleaved, |entries: G| {
                    differing(entries.add(step), first)
                }),
                _ => expand_level(bits, count, below, own, interleaved, |entries: G| entries.add(step)),
            }
        };
        if taken != starts[d + 1].1 {
            return None;
        }
        below = own;
        level_end(count, d);
    }
    Some(starts[0].1)
}

/// Sums are at last counted from the first offset that is continued, and become what an offset differs by.
///
/// # Safety
/// See [`Group`](super::Group).
#[inline(always)]
unsafe fn differing<G: Expand>(sums: G, first: G) -> G {
    // SAFETY: the caller's contract.
    unsafe { sums.add(first).xor(first) }
}

/// Builds a level's sums in `own` from those of the level below: the entries whose bits are ones take the next of them each,
/// and `add` is done to all. Gives the number of ones.
///
/// # Safety
/// As [`Group`](super::Group) says; `bits` and 7 bytes behind them are readable; as many sums as there are ones, and
/// 64 more, are below; `own` has room for `count` sums and 64 more.
#[inline(always)]
unsafe fn expand_level<G: Expand, B: Interleaved>(
    bits: *const u8,
    count: usize,
    below: *const u8,
    own: *mut u8,
    interleaved: &mut B,
    add: impl Fn(G) -> G,
) -> usize {
    let mut taken = 0;
    let mut expand = |block: usize, mask: u64| {
        // SAFETY: the caller's contract. At most 7 bytes behind the level's end are read, and ones there cut off.
        unsafe {
            let bits = bits.add(block * 8).cast::<u64>().read_unaligned().to_le() & mask;
            add(G::expand(bits, below.add(taken))).store(own.add(block * GROUP));
            taken += bits.count_ones() as usize;
        }
    };
    let whole = count / GROUP;
    // A copy, which can stay in a register.
    let mut local = *interleaved;
    for some in 0..whole / BLOCKS_A_STEP {
        local.step();
        (0..BLOCKS_A_STEP).for_each(|block| expand(some * BLOCKS_A_STEP + block, u64::MAX));
    }
    *interleaved = local;
    (whole / BLOCKS_A_STEP * BLOCKS_A_STEP..whole).for_each(|block| expand(block, u64::MAX));
    expand(whole, (1 << (count % GROUP)) - 1);
    taken
}
