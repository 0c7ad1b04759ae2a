//! Decoding of a tile, which goes to a [`Sink`] eight groups at a time.
//!
//! A tile in two steps: first the sums of its continued weights (`levels`), then its groups, a fractal's eight side by side (`fractals`). Ranks by distance, whose root fields hold offsets from the centre:
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

use super::ahead::{Ahead, LINE};
use super::levels::{continuations, expand_bytes};
use super::roots::{ByDistance, LookedUp, Ranks, root_fields, spread_top};
use super::sink::Sink;
use super::unroll::{each_group, unrolled};
use crate::arch::kernel::Damaged;
use crate::arch::operands::{Extent, TileCode};
use crate::codec::Order;
use crate::codec::decode::CodedTile;
use crate::geometry::{FRACTAL, GROUP, GROUPS};
use std::arch::x86_64::*;

/// Bytes that the low 12 bits of an address tell apart.
const PAGE: usize = 4096;

/// Sums behind those of all weights that are read, for nothing: a load of 64 may begin behind the last one, and the last fractal is
/// opened twice.
const BEHIND: usize = FRACTAL;

/// A 64-byte load or store.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Memory that a thread keeps from tile to tile, some kilobytes for the largest one.
#[derive(Default)]
pub(in crate::arch::x86_64) struct Memory {
    pub levels: Levels,
    /// Of the AMX kernel: panels on their way from the decoder to the products.
    pub panels: Lines,
}

/// Bytes that begin on a cache line.
#[derive(Default)]
pub(in crate::arch::x86_64) struct Lines(Vec<Line>);

impl Lines {
    /// The address of `bytes` of them.
    pub fn room_for(&mut self, bytes: usize) -> *mut u8 {
        let needed = bytes.div_ceil(LINE);
        if self.0.len() < needed {
            self.0.resize(needed, Line([0; LINE]));
        }
        self.0.as_mut_ptr().cast()
    }
}

/// Sums of the level that is being built, and of the one below it.
#[derive(Default)]
pub(in crate::arch::x86_64) struct Levels(Lines);

impl Levels {
    /// Both for a tile of that many weights, and [`BEHIND`] more. They are half a page apart modulo the page, for a load waits
    /// for an earlier store whose address has the same low 12 bits.
    fn sums(&mut self, weights: usize) -> [*mut u8; 2] {
        let second = (weights + BEHIND).next_multiple_of(PAGE) + PAGE / 2;
        let first = self.0.room_for(second + weights + BEHIND);
        [first, first.wrapping_add(second)]
    }
}

/// Decodes all of a tile into `sink`.
///
/// # Safety
/// The processor must have the features of [`Avx512`](super::Avx512), and the sink's own pointers must cover `extent`.
pub(in crate::arch::x86_64) unsafe fn decode_tile<S: Sink>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    levels: &mut Levels,
    sink: &mut S,
) -> Result<(), Damaged> {
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * code.code.root_bits() * GROUP);
    assert!(extent.weights() > 0 && tile.rest.len() >= tile.len + GROUP);
    let sums = levels.sums(extent.weights());
    // SAFETY: the caller answers for the features; the assertions above cover the roots and the rest, both sums have room
    // for all weights and `BEHIND` more, and the caller answers for the sink.
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
) -> Result<(), Damaged> {
    let mut ahead = Ahead::of(tile);
    // SAFETY: as promised by the caller.
    let total = unsafe { continuations(code, tile, extent.weights(), sums, &mut ahead, sink) }.ok_or(Damaged)?;
    // SAFETY: as promised by the caller; the table has 256 bytes.
    let taken = unsafe {
        let sums = sums[0].cast_const();
        match code.code.order() {
            Order::Distance(centre) => {
                let to_tested = _mm512_set1_epi8(code.code.first_continued().wrapping_add(0x80) as i8);
                let addend = _mm512_set1_epi8(centre.wrapping_sub(0x80) as i8);
                if *centre == 0x80 {
                    let ranks = ByDistance::<false> { to_tested, addend };
                    fractals::<S, _, R>(code, tile, extent, sums, ahead, sink, &ranks)
                } else {
                    let ranks = ByDistance::<true> { to_tested, addend };
                    fractals::<S, _, R>(code, tile, extent, sums, ahead, sink, &ranks)
                }
            }
            Order::Stored(stored) => {
                let row = code.table.as_ptr().cast::<__m512i>();
                let table = [_mm512_loadu_si512(row), _mm512_loadu_si512(row.add(1))];
                let top_to_mask = _mm512_set1_epi64(spread_top(stored.mask()));
                if stored.mask() == 0 {
                    let ranks = LookedUp::<false> { table, top_to_mask };
                    fractals::<S, _, R>(code, tile, extent, sums, ahead, sink, &ranks)
                } else {
                    let ranks = LookedUp::<true> { table, top_to_mask };
                    fractals::<S, _, R>(code, tile, extent, sums, ahead, sink, &ranks)
                }
            }
        }
    };
    // Everything was consumed exactly.
    (taken == total).then_some(()).ok_or(Damaged)
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
    mut ahead: Ahead,
    sink: &mut S,
    ranks: &K,
) -> usize {
    // At most 128. A code without a step continues nothing: no root field is 2^R.
    let threshold = _mm512_set1_epi8(code.code.direct() as i8);
    let lines = ahead.lines.div_ceil(extent.weights() / FRACTAL);
    let mut rows = tile.roots.as_ptr();
    let last = rows.wrapping_add(tile.roots.len() - R * GROUP);
    let mut taken = 0;
    // SAFETY: the caller's roots have one fractal at least.
    let first = unsafe { open::<K, R>(rows, ranks, threshold, &mut taken) };
    // SAFETY: as for the others, below.
    let mut symbols = unsafe { close(&first, ranks, sums) };
    let mut all = taken;
    for panel in 0..extent.panels() {
        for fractal in 0..extent.fractals() {
            ahead.fetch(lines);
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
