//! Decoding of a tile, which goes to a [`Sink`] eight groups at a time.
//!
//! A tile in two steps. First its continuations, from the deepest level up (`continuations`):
//!
//! ```text
//! sums = the escapes
//! for each level, last first:
//!     for 64 bits of the level: next sums = expand(sums) into the lanes of the ones, 0 elsewhere, + a step
//! ```
//!
//! then its groups, a fractal's eight side by side (`fractals`). Ranks by distance, whose root fields hold offsets from the centre:
//!
//! ```text
//! offset = root field of every lane, its sign extended   one or two GF(2) affine transforms of the rows
//! open   = offset + T / 2 >= T                           addition, compare into a mask
//! symbol = offset ^ expand(sums) in the lanes of open    exclusive or
//!          + centre                                      addition; none for 128, the zero of int8
//! ```
//!
//! Stored ranks:
//!
//! ```text
//! rank   = root field of every lane                      the same
//! open   = rank >= T                                     compare
//! rank  += expand(sums) in the lanes of open             addition
//! symbol = table[rank mod 128]                           two-register byte permute
//!          ^ mask where rank >= 128                      a GF(2) affine transform, if the code has a mask
//! ```
//!
//! Counts of ones are all that leads from one step to the next, so the processor overlaps them freely.

use super::LINE;
use crate::arch::{Extent, TileCode};
use crate::codec::decode::CodedTile;
use crate::codec::{MAX_LEVELS, Order};
use crate::container::geometry::{FRACTAL, GROUP, GROUPS};
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Bytes that the low 12 bits of an address tell apart.
const PAGE: usize = 4096;

/// Sums behind those of all weights that are read, for nothing: a load of 64 may begin behind the last one, and the last fractal is
/// opened twice.
const BEHIND: usize = FRACTAL;

/// Begin and number of entries of each level, and of the escapes.
type Starts = [(usize, usize); MAX_LEVELS + 1];

/// Entries of levels after which the sink gets its turn: some 100 ns.
const MEANWHILE_ENTRIES: usize = 4096;

/// What is done with the eight groups of a fractal once they are symbols.
pub(in crate::arch::x86_64) trait Sink {
    /// # Safety
    /// The processor must have the features of [`Avx512`](super::Avx512), and the sink's own pointers must cover the fractal.
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]);
    /// # Safety
    /// As for [`Self::fractal`].
    unsafe fn panel_end(&mut self, panel: usize);
    /// Called now and then while there are no fractals.
    ///
    /// # Safety
    /// As for [`Self::fractal`].
    #[inline(always)]
    unsafe fn meanwhile(&mut self) {}
}

/// A 64-byte load or store.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

thread_local! {
    /// Sums of the level that is being built, and of the one below it.
    static SUMS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Decodes all of a tile into `sink`, which must cover `extent`; whether everything was consumed exactly.
pub(in crate::arch::x86_64) fn decode_tile<S: Sink>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    sink: &mut S,
) -> bool {
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * code.code.root_bits() * GROUP);
    assert!(extent.weights() > 0 && tile.rest.len() >= tile.len + GROUP);
    // The two buffers are half a page apart modulo the page, for a load waits for an earlier store whose address has the same
    // low 12 bits.
    let second = (extent.weights() + BEHIND).next_multiple_of(PAGE) + PAGE / 2;
    SUMS.with_borrow_mut(|lines| {
        let needed = (second + extent.weights() + BEHIND).div_ceil(LINE);
        if lines.len() < needed {
            lines.resize(needed, Line([0; LINE]));
        }
        let sums = lines.as_mut_ptr().cast::<u8>();
        let sums = [sums, sums.wrapping_add(second)];
        // SAFETY: a kernel exists only where the features do; the assertions above cover the roots and the rest, both
        // sums have room for all weights and `BEHIND` more, and the caller answers for the sink.
        unsafe {
            match code.code.root_bits() {
                1 => panels::<S, 1>(code, tile, extent, sums, sink),
                2 => panels::<S, 2>(code, tile, extent, sums, sink),
                3 => panels::<S, 3>(code, tile, extent, sums, sink),
                4 => panels::<S, 4>(code, tile, extent, sums, sink),
                5 => panels::<S, 5>(code, tile, extent, sums, sink),
                6 => panels::<S, 6>(code, tile, extent, sums, sink),
                _ => panels::<S, 7>(code, tile, extent, sums, sink),
            }
        }
    })
}

/// Where each level begins, and how many entries it has; the last are the escapes. `None` if they do not make up the tile, or
/// there are more than `limit` anywhere.
///
/// # Safety
/// The features; 8 bytes behind `tile.len` are readable.
#[inline(always)]
unsafe fn starts_of_levels(levels: usize, tile: &CodedTile<'_>, limit: usize) -> Option<Starts> {
    let mut starts = Starts::default();
    let rest = tile.rest.as_ptr();
    let first = tile.rest[..tile.len].first_chunk()?;
    let mut at = first.len();
    let mut count = tile.counts.map_or(u16::from_le_bytes(*first), |counts| counts[0]).into();
    for d in 0..levels {
        starts[d] = (at, count);
        if count > limit || at + count.div_ceil(8) > tile.len {
            return None;
        }
        let next = match tile.counts {
            Some(counts) => counts[d + 1].into(),
            // SAFETY: the level is inside of the tile; the features are the caller's.
            None => unsafe { ones(rest.add(at), count) },
        };
        at += count.div_ceil(8);
        count = next;
    }
    starts[levels] = (at, count);
    (count <= limit && tile.ends_at(at + count)).then_some(starts)
}

/// How many of the first `count` bits are ones.
///
/// # Safety
/// The features; the bits, and 7 bytes behind them, are readable.
#[inline(always)]
unsafe fn ones(bits: *const u8, count: usize) -> usize {
    // SAFETY: the caller's contract.
    let word = |at: usize| unsafe { bits.add(at * 8).cast::<u64>().read_unaligned() };
    let whole: u32 = (0..count / 64).map(|at| word(at).count_ones()).sum();
    // SAFETY: as above.
    let last = unsafe { _bzhi_u64(word(count / 64), (count % 64) as u32) };
    (whole + last.count_ones()) as usize
}

/// Builds the sums of a tile's continued weights in `sums[0]`, at most `limit` of them. Gives their number, or `None` if
/// the tile is damaged.
///
/// # Safety
/// All features of [`Avx512`](super::Avx512); 64 bytes behind `tile.len` are readable; both sums have `limit` + 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi1,bmi2,popcnt")]
unsafe fn continuations<S: Sink>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    limit: usize,
    sums: [*mut u8; 2],
    sink: &mut S,
) -> Option<usize> {
    let levels = code.code.levels();
    let rest = tile.rest.as_ptr();
    // SAFETY: the caller's contract.
    let starts = unsafe { starts_of_levels(levels, tile, limit) }?;
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
                0 => expand_level(bits, count, below, own, |entries| entries),
                1 => expand_level(bits, count, below, own, |entries| differing(_mm512_add_epi8(entries, step))),
                _ => expand_level(bits, count, below, own, |entries| _mm512_add_epi8(entries, step)),
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
            unsafe { sink.meanwhile() };
        }
    }
    Some(starts[0].1)
}

/// Builds a level's sums in `own` from those of the level below: the entries whose bits are ones take the next of them each,
/// and `add` is done to all. Gives the number of ones.
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
    add: impl Fn(__m512i) -> __m512i,
) -> usize {
    let mut taken = 0;
    let mut expand = |block: usize, bits: u64| {
        // SAFETY: the caller's contract.
        unsafe {
            let entries = expand_bytes(bits, _mm512_loadu_si512(below.add(taken).cast()));
            _mm512_storeu_si512(own.add(block * 64).cast(), add(entries));
        }
        taken += bits.count_ones() as usize;
    };
    for block in 0..count / 64 {
        // SAFETY: inside of the level.
        expand(block, unsafe { bits.add(block * 8).cast::<u64>().read_unaligned() });
    }
    // SAFETY: at most 7 bytes behind the level's end; ones there are cut off.
    let last = unsafe { bits.add(count / 64 * 8).cast::<u64>().read_unaligned() };
    expand(count / 64, _bzhi_u64(last, (count % 64) as u32));
    taken
}

/// The first bytes of `from`, one after another, in the lanes whose bits are ones; 0 elsewhere.
///
/// The instruction waits for the register that it overwrites (Zen 4: 5 cycles each where one would do), although it keeps
/// nothing of it. As its own source there is nothing else to wait for, which only assembly can say.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn expand_bytes(bits: u64, from: __m512i) -> __m512i {
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

/// Writes a block out for each value of a constant: left as a loop, arrays of registers end up in memory.
macro_rules! unrolled {
    ($name:ident in [$($value:literal)*] $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}
pub(in crate::arch::x86_64) use unrolled;

/// Writes a block out for each of the eight groups.
macro_rules! each_group {
    ($g:ident => $body:block) => {
        unrolled!($g in [0 1 2 3 4 5 6 7] $body)
    };
}
pub(in crate::arch::x86_64) use each_group;

/// Matrices of GF2P8AFFINEQB that move bits `from..` of a byte to `to..`, `count` of them, and clear the rest.
const fn move_bits(from: usize, to: usize, count: usize) -> i64 {
    let mut m = 0u64;
    let mut i = 0;
    while i < count {
        // Byte 7 − i of the matrix picks the input bits of output bit i.
        m |= 1 << (8 * (7 - (to + i)) + from + i);
        i += 1;
    }
    m as i64
}

/// As [`move_bits`], with the last of them in all bits above as well.
const fn move_bits_signed(from: usize, to: usize, count: usize) -> i64 {
    let mut m = move_bits(from, to, count) as u64;
    let mut i = to + count;
    while i < 8 {
        m |= 1 << (8 * (7 - i) + from + count - 1);
        i += 1;
    }
    m as i64
}

/// Matrix of GF2P8AFFINEQB that turns bytes with their top bit set into `mask`, and others into 0.
const fn spread_top(mask: u8) -> i64 {
    let mut m = 0u64;
    let mut i = 0;
    while i < 8 {
        if mask >> i & 1 == 1 {
            // Byte 7 − i of the matrix picks the input bits of output bit i.
            m |= 0x80 << (8 * (7 - i));
        }
        i += 1;
    }
    m as i64
}

/// What is done with root fields and sums.
trait Ranks {
    /// Root fields are offsets from the centre: signed, and given with the highest bit turned over, as 0 is 128.
    const SIGNED: bool;
    /// What reaches the threshold where a weight is continued.
    ///
    /// # Safety
    /// AVX-512BW.
    unsafe fn tested(&self, fields: __m512i) -> __m512i;
    /// The symbols of root fields and sums, 0 for weights that are not continued.
    ///
    /// # Safety
    /// All features of [`Avx512`](super::Avx512).
    unsafe fn symbols(&self, fields: __m512i, sums: __m512i) -> __m512i;
}

/// Ranks by distance from a centre, which is 128 unless there is an addend.
struct ByDistance<const ADDEND: bool> {
    to_tested: __m512i,
    addend: __m512i,
}

impl<const ADDEND: bool> Ranks for ByDistance<ADDEND> {
    const SIGNED: bool = true;
    #[inline(always)]
    unsafe fn tested(&self, fields: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_add_epi8(fields, self.to_tested) }
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe {
            let symbols = _mm512_xor_si512(fields, sums);
            if ADDEND { _mm512_add_epi8(symbols, self.addend) } else { symbols }
        }
    }
}

/// Ranks that are looked up; those of 128 and more with the mask.
struct LookedUp<const MASK: bool> {
    table: [__m512i; 2],
    top_to_mask: __m512i,
}

impl<const MASK: bool> Ranks for LookedUp<MASK> {
    const SIGNED: bool = false;
    #[inline(always)]
    unsafe fn tested(&self, fields: __m512i) -> __m512i {
        fields
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe {
            let rank = _mm512_add_epi8(fields, sums);
            let symbols = _mm512_permutex2var_epi8(self.table[0], rank, self.table[1]);
            if MASK {
                _mm512_xor_si512(symbols, _mm512_gf2p8affine_epi64_epi8::<0>(rank, self.top_to_mask))
            } else {
                symbols
            }
        }
    }
}

/// The eight root fields of every lane; see [`Ranks::SIGNED`].
///
/// # Safety
/// AVX-512BW and GFNI; `rows` points to R · 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn root_fields<const R: usize, const SIGNED: bool>(rows: *const u8) -> [__m512i; GROUPS] {
    let zero = _mm512_setzero_si512();
    // SAFETY: called with b < R only.
    let row = |b: usize| unsafe { _mm512_loadu_si512(rows.add(b * GROUP).cast()) };
    // The bits of a field up to its highest, at the bottom of a byte or, of the byte behind it, above `to` others.
    let last_bits = |row: __m512i, from: usize, to: usize, count: usize| {
        if SIGNED {
            _mm512_gf2p8affine_epi64_epi8::<0x80>(row, _mm512_set1_epi64(move_bits_signed(from, to, count)))
        } else {
            _mm512_gf2p8affine_epi64_epi8::<0>(row, _mm512_set1_epi64(move_bits(from, to, count)))
        }
    };
    let mut fields = [zero; GROUPS];
    each_group!(G => {
        let (byte, shift) = (G * R / 8, G * R % 8);
        fields[G] = if shift + R <= 8 {
            last_bits(row(byte), shift, 0, R)
        } else {
            let first = 8 - shift;
            let low = _mm512_set1_epi64(move_bits(shift, 0, first));
            let low = _mm512_gf2p8affine_epi64_epi8::<0>(row(byte), low);
            _mm512_or_si512(low, last_bits(row(byte + 1), 0, first, R - first))
        };
    });
    fields
}

/// A fractal whose root fields are known, and which of its weights are continued.
struct Opened {
    fields: [__m512i; GROUPS],
    /// The lanes of those weights, and where their sums begin.
    lanes: [u64; GROUPS],
    sums: [usize; GROUPS],
}

/// Opens a fractal whose sums begin at `taken`, and moves that to where they end.
///
/// # Safety
/// AVX-512BW and GFNI; `rows` points to R · 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni,popcnt")]
unsafe fn open<K: Ranks, const R: usize>(
    rows: *const u8,
    ranks: &K,
    threshold: __m512i,
    taken: &mut usize,
) -> Opened {
    // SAFETY: the caller's contract.
    let fields = unsafe { if K::SIGNED { root_fields::<R, true>(rows) } else { root_fields::<R, false>(rows) } };
    let (mut lanes, mut sums) = ([0; GROUPS], [0; GROUPS]);
    each_group!(G => {
        // SAFETY: as above.
        lanes[G] = _mm512_cmpge_epu8_mask(unsafe { ranks.tested(fields[G]) }, threshold);
        sums[G] = *taken;
        *taken += lanes[G].count_ones() as usize;
    });
    Opened { fields, lanes, sums }
}

/// The symbols of a fractal.
///
/// # Safety
/// All features of [`Avx512`](super::Avx512); all sums of the fractal, and 64 bytes more, are readable from `sums` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,gfni")]
unsafe fn close<K: Ranks>(opened: &Opened, ranks: &K, sums: *const u8) -> [__m512i; GROUPS] {
    let mut symbols = [_mm512_setzero_si512(); GROUPS];
    each_group!(G => {
        // SAFETY: the caller's contract.
        symbols[G] = unsafe {
            let sums = _mm512_loadu_si512(sums.add(opened.sums[G]).cast());
            ranks.symbols(opened.fields[G], expand_bytes(opened.lanes[G], sums))
        };
    });
    symbols
}

/// # Safety
/// All features of [`Avx512`](super::Avx512); the tile's roots cover the extent, both sums and the rest are as `continuations` needs
/// them, `sink` covers the extent.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni,bmi1,bmi2,popcnt"
)]
unsafe fn panels<S: Sink, const R: usize>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    sums: [*mut u8; 2],
    sink: &mut S,
) -> bool {
    // SAFETY: as promised by the caller.
    let Some(total) = (unsafe { continuations(code, tile, extent.weights(), sums, sink) }) else {
        return false;
    };
    // SAFETY: as promised by the caller; the table has 256 bytes.
    let taken = unsafe {
        let sums = sums[0].cast_const();
        match code.code.order() {
            Order::Distance(centre) => {
                let to_tested = _mm512_set1_epi8(code.code.first_continued().wrapping_add(0x80) as i8);
                let addend = _mm512_set1_epi8(centre.wrapping_sub(0x80) as i8);
                if *centre == 0x80 {
                    let ranks = ByDistance::<false> { to_tested, addend };
                    fractals::<S, _, R>(code, tile, extent, sums, sink, &ranks)
                } else {
                    let ranks = ByDistance::<true> { to_tested, addend };
                    fractals::<S, _, R>(code, tile, extent, sums, sink, &ranks)
                }
            }
            Order::Stored(stored) => {
                let row = code.table.as_ptr().cast::<__m512i>();
                let table = [_mm512_loadu_si512(row), _mm512_loadu_si512(row.add(1))];
                let top_to_mask = _mm512_set1_epi64(spread_top(stored.mask()));
                if stored.mask() == 0 {
                    let ranks = LookedUp::<false> { table, top_to_mask };
                    fractals::<S, _, R>(code, tile, extent, sums, sink, &ranks)
                } else {
                    let ranks = LookedUp::<true> { table, top_to_mask };
                    fractals::<S, _, R>(code, tile, extent, sums, sink, &ranks)
                }
            }
        }
    };
    taken == total
}

/// Gives the sink its fractals; the number of sums that they took.
///
/// Each is opened before the sink gets the one in front of it, so that where its sums lie, which takes some 40 cycles to
/// find out, is known when it is closed.
///
/// # Safety
/// As for [`panels`]; `sums` has room for the sums of all weights, and [`BEHIND`] more.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni,bmi1,bmi2,popcnt"
)]
unsafe fn fractals<S: Sink, K: Ranks, const R: usize>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    sums: *const u8,
    sink: &mut S,
    ranks: &K,
) -> usize {
    // At most 128. A code without a step continues nothing: no root field is 2^R.
    let threshold = _mm512_set1_epi8(code.code.direct() as i8);
    let mut ahead = tile.rest[tile.len..].as_ptr();
    let lines = (tile.roots.len() + tile.len).div_ceil(LINE * extent.weights() / FRACTAL);
    let mut rows = tile.roots.as_ptr();
    let last = rows.wrapping_add(tile.roots.len() - R * GROUP);
    let mut taken = 0;
    // SAFETY: the caller's roots have one fractal at least.
    let first = unsafe { open::<K, R>(rows, ranks, threshold, &mut taken) };
    // SAFETY: as for the others, below.
    let mut symbols = unsafe { close(&first, ranks, sums) };
    let mut all = taken;
    for panel in 0..extent.panels {
        for fractal in 0..extent.fractals {
            // A tile's parts are too short for the hardware prefetcher to find its pace, so the next tile, which lies
            // behind this one, is fetched evenly while this one is decoded.
            for line in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line * LINE).cast());
            }
            ahead = ahead.wrapping_add(lines * LINE);
            all = taken;
            // Behind the last one it comes again, for nothing.
            rows = rows.wrapping_add(R * GROUP).min(last);
            // SAFETY: the caller's roots and sink cover every fractal. No more sums are taken than there are weights, but for
            // the fractal that is opened twice: all are in `sums` or among those behind.
            symbols = unsafe {
                let next = open::<K, R>(rows, ranks, threshold, &mut taken);
                sink.fractal(panel, fractal, &symbols);
                close(&next, ranks, sums)
            };
        }
        // SAFETY: the caller's sink covers the extent.
        unsafe { sink.panel_end(panel) };
    }
    all
}
