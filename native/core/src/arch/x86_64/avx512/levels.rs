//! Sums of the weights that are continued, built from the deepest level up:
//!
//! ```text
//! sums = the escapes
//! for each level, last first:
//!     for 64 bits of the level: next sums = expand(sums) into the lanes of the ones, 0 elsewhere, + a step
//! ```

use super::ahead::Ahead;
use super::sink::Sink;
use crate::arch::operands::TileCode;
use crate::codec::decode::CodedTile;
use crate::geometry::GROUP;
use std::arch::asm;
use std::arch::x86_64::*;

/// Entries of levels after which the sink gets its turn: some 100 ns.
const MEANWHILE_ENTRIES: usize = 4096;

/// Blocks of 64 entries of a level for each line of the next tile that is fetched.
const BLOCKS_A_LINE: usize = 4;

/// Builds the sums of a tile's continued weights in `sums[0]`, at most `limit` of them. Gives their number, or `None` if
/// the tile is damaged.
///
/// # Safety
/// All features of [`Avx512`](super::Avx512); 64 bytes behind `tile.len` are readable; both sums have `limit` + 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) unsafe fn continuations<S: Sink>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    limit: usize,
    sums: [*mut u8; 2],
    ahead: &mut Ahead,
    sink: &mut S,
) -> Option<usize> {
    let levels = code.code.levels();
    let rest = tile.rest.as_ptr();
    let starts = tile.starts(levels, limit)?;
    let (start, escapes) = starts[levels];
    let step = _mm512_set1_epi8(code.code.sum_step() as i8);
    // Sums are at last counted from the first offset that is continued, and become what an offset differs by.
    let first = _mm512_set1_epi8(code.code.first_continued() as i8);
    let differing = |sums| _mm512_xor_si512(_mm512_add_epi8(sums, first), first);
    // Copied: should the file have changed, a level may have more ones than were counted, and what they take must lie in
    // memory of our own.
    let mut below = sums[levels % 2];
    // SAFETY: the escapes end inside of the tile, as was checked, behind which 64 bytes are readable; they are no more than
    // `limit`, and both sums have room for 64 more.
    unsafe {
        let escaped = rest.add(start);
        if levels < 2 {
            for at in (0..escapes).step_by(GROUP) {
                let sums = differing(_mm512_loadu_si512(escaped.add(at).cast()));
                _mm512_storeu_si512(below.add(at).cast(), sums);
            }
        } else {
            escaped.copy_to_nonoverlapping(below, escapes);
        }
    }
    let mut entries = 0;
    for d in (0..levels).rev() {
        let (start, count) = starts[d];
        let own = sums[d % 2];
        // SAFETY: the level is inside of the tile, behind which 64 bytes are readable. No level has more than `limit` entries, so
        // whatever its bits are by now, no more are taken from the level below; both sums have room for `limit` + 64.
        unsafe {
            let bits = rest.add(start);
            // At level 0 a weight that goes no further keeps its root field.
            let taken = match d {
                0 => expand_level(bits, count, below, own, ahead, |entries| entries),
                1 => {
                    expand_level(bits, count, below, own, ahead, |entries| differing(_mm512_add_epi8(entries, step)))
                }
                _ => expand_level(bits, count, below, own, ahead, |entries| _mm512_add_epi8(entries, step)),
            };
            if taken != starts[d + 1].1 {
                return None;
            }
        }
        below = own;
        entries += count;
        if d == 0 || entries > MEANWHILE_ENTRIES {
            entries = 0;
            // SAFETY: the caller's contract.
            unsafe { sink.keep_warm() };
        }
    }
    Some(starts[0].1)
}

/// Builds a level's sums in `own` from those of the level below: the entries whose bits are ones take the next of them each,
/// and `add` is done to all. Gives the number of ones. Lines ahead are fetched meanwhile: levels take a third of the time with one row,
/// in which memory would rest.
///
/// # Safety
/// AVX-512 with VBMI2; `bits` and 7 bytes behind them are readable; as many sums as there are ones, and 64 bytes more, are
/// below; `own` has room for `count` sums and 64 more.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi2,popcnt")]
unsafe fn expand_level(
    bits: *const u8,
    count: usize,
    below: *const u8,
    own: *mut u8,
    ahead: &mut Ahead,
    add: impl Fn(__m512i) -> __m512i,
) -> usize {
    let mut taken = 0;
    let mut expand = |block: usize, mask: u64| {
        // SAFETY: the caller's contract. At most 7 bytes behind the level's end are read, and ones there cut off.
        unsafe {
            let bits = bits.add(block * 8).cast::<u64>().read_unaligned() & mask;
            let entries = expand_bytes(bits, _mm512_loadu_si512(below.add(taken).cast()));
            _mm512_storeu_si512(own.add(block * 64).cast(), add(entries));
            taken += bits.count_ones() as usize;
        }
    };
    let whole = count / 64;
    // A copy, which can stay in a register.
    let mut line = *ahead;
    for some in 0..whole / BLOCKS_A_LINE {
        line.fetch(1);
        (0..BLOCKS_A_LINE).for_each(|block| expand(some * BLOCKS_A_LINE + block, u64::MAX));
    }
    *ahead = line;
    (whole / BLOCKS_A_LINE * BLOCKS_A_LINE..whole).for_each(|block| expand(block, u64::MAX));
    expand(whole, _bzhi_u64(u64::MAX, (count % 64) as u32));
    taken
}

/// The first bytes of `from`, one after another, in the lanes whose bits are ones; 0 elsewhere.
///
/// The instruction waits for the register that it overwrites (Zen 4: 5 cycles each where one would do), although it keeps
/// nothing of it. As its own source there is nothing else to wait for, which only assembly can say.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
pub(super) fn expand_bytes(bits: u64, from: __m512i) -> __m512i {
    let mut bytes = from;
    // SAFETY: changes nothing but its operand.
    unsafe {
        asm!(
            "vpexpandb {bytes}{{{bits}}}{{z}}, {bytes}",
            bytes = inout(zmm_reg) bytes,
            bits = in(kreg) bits,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    bytes
}
