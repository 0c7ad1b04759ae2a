//! Decoding of a tile, which goes to a [`Sink`] eight groups at a time.
//!
//! A tile in two steps: first the sums of its continued weights, then its groups, a fractal's eight side by side (`fractals`), as
//! [`generic`](crate::arch::generic) says:
//!
//! ```text
//! root fields of every lane                     a GF(2) affine transform of the rows, offsets with their sign extended;
//!                                               where a field spans two bytes, a shift of the first as well
//! which are open                                compare into a mask
//! sums in the lanes of those                    byte expand
//! look-up in a table                            two-register byte permute
//! mask of ranks of 128 and more                 a GF(2) affine transform
//! ```
//!
//! Counts of ones are all that leads from one step to the next, so the processor overlaps them freely.

use super::ahead::{Ahead, Paced};
use super::group::{Zmm, settled};
use super::roots::root_fields;
use super::sink::{Sink, Store};
use super::unroll::{each_group, unrolled};
use crate::aligned::LINE;
use crate::arch::generic::{ByDistance, Expand, Interleaved, LookedUp, Ranks, continuations, with_root_bits};
use crate::arch::kernel::{NoMemory, Refused, resize};
use crate::arch::operands::{Coded, Extent, TileCode};
use crate::arch::workspace::Scratch;
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
    pub fn room_for(&mut self, bytes: usize) -> Result<*mut u8, NoMemory> {
        let needed = bytes.div_ceil(LINE);
        if self.0.len() < needed {
            resize(&mut self.0, needed, Line([0; LINE]))?;
        }
        Ok(self.0.as_mut_ptr().cast())
    }
}

/// Sums of the level that is being built, and of the one below it.
#[derive(Default)]
pub(in crate::arch::x86_64) struct Levels(Lines);

impl Levels {
    /// Both for a tile of that many weights, and [`BEHIND`] more. They are half a page apart modulo the page, for a load waits
    /// for an earlier store whose address has the same low 12 bits.
    fn sums(&mut self, weights: usize) -> Result<[*mut u8; 2], NoMemory> {
        let second = (weights + BEHIND).next_multiple_of(PAGE) + PAGE / 2;
        let first = self.0.room_for(second + weights + BEHIND)?;
        Ok([first, first.wrapping_add(second)])
    }
}

/// Decodes a tile into kernel order, as [`TileKernel::decode`](crate::arch::TileKernel::decode).
///
/// # Safety
/// The processor must have the features of [`Avx512`](super::Avx512).
///
/// # Panics
/// If the tile does not fit.
pub(super) unsafe fn decode(
    coded: Coded<'_>,
    out: &mut [u8],
    stride: usize,
    scratch: &mut Scratch,
) -> Result<(), Refused> {
    assert!(out.len() >= coded.extent.span(stride));
    let mut sink = Store { out: out.as_mut_ptr(), stride };
    // SAFETY: the caller's contract, and the check above covers what the sink writes.
    unsafe { decode_tile(coded, &mut scratch.of::<Memory>().levels, &mut sink) }
}

/// Decodes all of a tile into `sink`.
///
/// # Safety
/// The processor must have the features of [`Avx512`](super::Avx512), and the sink's own pointers must cover `extent`.
pub(in crate::arch::x86_64) unsafe fn decode_tile<S: Sink>(
    Coded { code, tile, extent }: Coded<'_>,
    levels: &mut Levels,
    sink: &mut S,
) -> Result<(), Refused> {
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * code.code.root_bits() * GROUP);
    assert!(extent.weights() > 0 && tile.rest.len() >= tile.len + GROUP);
    let sums = levels.sums(extent.weights())?;
    // SAFETY: the caller answers for the features; the assertions above cover the roots and the rest, both sums have room
    // for all weights and `BEHIND` more, and the caller answers for the sink.
    unsafe { with_root_bits!(code.code.root_bits(), R => panels::<S, R>(code, tile, extent, sums, sink)) }
}

/// A fractal whose root fields are known, and which of its weights are continued.
struct Opened {
    fields: [Zmm; GROUPS],
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
unsafe fn open<K: Ranks<Zmm>, const R: usize>(rows: *const u8, ranks: &K, taken: &mut usize) -> Opened {
    // SAFETY: the caller's contract.
    let fields = unsafe { if K::OFFSETS { root_fields::<R, true>(rows) } else { root_fields::<R, false>(rows) } };
    let fields = settled(fields).map(Zmm);
    let (mut lanes, mut sums) = ([0; GROUPS], [0; GROUPS]);
    each_group!(G => {
        // SAFETY: as above.
        lanes[G] = unsafe { ranks.open(fields[G]) };
        sums[G] = *taken;
        *taken += lanes[G].count_ones() as usize;
    });
    Opened { fields, lanes, sums }
}

/// What is done while a fractal is closed, in eight steps.
trait Beside {
    /// # Safety
    /// All features of [`Avx512`](super::Avx512).
    unsafe fn step<const G: usize>(&mut self);
}

/// Nothing.
impl Beside for () {
    #[inline(always)]
    unsafe fn step<const G: usize>(&mut self) {}
}

/// The sink's work with the fractal in front of it.
struct Before<'a, S> {
    sink: &'a mut S,
    panel: usize,
    fractal: usize,
    symbols: [__m512i; GROUPS],
}

impl<S: Sink> Beside for Before<'_, S> {
    #[inline(always)]
    unsafe fn step<const G: usize>(&mut self) {
        // SAFETY: who makes this answers for the sink, and the caller for the features.
        unsafe { self.sink.beside::<G>(self.panel, self.fractal, &self.symbols) };
    }
}

/// The symbols of a fractal.
///
/// # Safety
/// All features of [`Avx512`](super::Avx512); all sums of the fractal, and 64 bytes more, are readable from `sums` on.
#[inline(always)]
unsafe fn close<K: Ranks<Zmm>>(
    opened: &Opened,
    ranks: &K,
    sums: *const u8,
    ahead: &mut Paced,
    beside: &mut impl Beside,
) -> [__m512i; GROUPS] {
    // SAFETY: the caller's contract.
    let mut symbols = [unsafe { _mm512_setzero_si512() }; GROUPS];
    each_group!(G => {
        ahead.fetch::<G>();
        // SAFETY: the caller's contract.
        unsafe { beside.step::<G>() };
        // SAFETY: the caller's contract.
        symbols[G] = unsafe {
            ranks.symbols(opened.fields[G], Zmm::expand(opened.lanes[G], sums.add(opened.sums[G]))).0
        };
    });
    // SAFETY: the caller's contract.
    unsafe { settled(symbols) }
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
) -> Result<(), Refused> {
    let mut ahead = Ahead::of(tile);
    // SAFETY: as promised by the caller.
    let total = unsafe { levels(code, tile, extent.weights(), sums, &mut ahead, sink) }.ok_or(Refused::Damaged)?;
    // SAFETY: as promised by the caller; the table has 256 bytes.
    let taken = unsafe {
        let sums = sums[0].cast_const();
        match code.code.order() {
            Order::Distance(centre @ 0x80) => {
                let ranks = ByDistance::<Zmm, false>::new(code, *centre);
                fractals::<S, _, R>(tile, extent, sums, ahead, sink, &ranks)
            }
            Order::Distance(centre) => {
                let ranks = ByDistance::<Zmm, true>::new(code, *centre);
                fractals::<S, _, R>(tile, extent, sums, ahead, sink, &ranks)
            }
            Order::Stored(stored) if stored.mask() == 0 => {
                let ranks = LookedUp::<Zmm, false>::new(code, 0);
                fractals::<S, _, R>(tile, extent, sums, ahead, sink, &ranks)
            }
            Order::Stored(stored) => {
                let ranks = LookedUp::<Zmm, true>::new(code, stored.mask());
                fractals::<S, _, R>(tile, extent, sums, ahead, sink, &ranks)
            }
        }
    };
    // Everything was consumed exactly.
    (taken == total).then_some(()).ok_or(Refused::Damaged)
}

/// Entries of levels after which the sink gets its turn: some 100 ns.
const WARM_ENTRIES: usize = 4096;

/// Each step of building levels fetches a line of the next tile.
impl Interleaved for Ahead {
    #[inline(always)]
    fn step(&mut self) {
        self.fetch(1);
    }
}

/// [`continuations`] by this kernel's instructions. Now and then, and at the end, the sink gets its turn.
///
/// # Safety
/// All features of [`Avx512`](super::Avx512); the rest is as there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi1,bmi2,popcnt")]
unsafe fn levels<S: Sink>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    limit: usize,
    sums: [*mut u8; 2],
    ahead: &mut Ahead,
    sink: &mut S,
) -> Option<usize> {
    let mut entries = 0;
    // SAFETY: the caller's contract.
    unsafe {
        continuations::<Zmm, Ahead>(code, tile, limit, sums, ahead, |count, level| {
            entries += count;
            if level == 0 || entries > WARM_ENTRIES {
                entries = 0;
                sink.keep_warm();
            }
        })
    }
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
unsafe fn fractals<S: Sink, K: Ranks<Zmm>, const R: usize>(
    tile: &CodedTile<'_>,
    extent: Extent,
    sums: *const u8,
    ahead: Ahead,
    sink: &mut S,
    ranks: &K,
) -> usize {
    let mut ahead = ahead.paced(extent.weights() / FRACTAL);
    let mut rows = tile.roots.as_ptr();
    let last = rows.wrapping_add(tile.roots.len() - R * GROUP);
    let mut taken = 0;
    // SAFETY: the caller's roots have one fractal at least.
    let first = unsafe { open::<K, R>(rows, ranks, &mut taken) };
    // SAFETY: as for the others, below.
    let mut symbols = unsafe { close(&first, ranks, sums, &mut ahead, &mut ()) };
    let mut all = taken;
    for panel in 0..extent.panels() {
        for fractal in 0..extent.fractals() {
            all = taken;
            // Behind the last one it comes again, for nothing.
            rows = rows.wrapping_add(R * GROUP).min(last);
            // SAFETY: the caller's roots and sink cover every fractal. No more sums are taken than there are weights, but for
            // the fractal that is opened twice: all are in `sums` or among those behind.
            symbols = unsafe {
                let next = open::<K, R>(rows, ranks, &mut taken);
                sink.fractal(panel, fractal, &symbols);
                close(&next, ranks, sums, &mut ahead, &mut Before { sink, panel, fractal, symbols })
            };
        }
        // SAFETY: the caller's sink covers the extent.
        unsafe { sink.panel_end(panel) };
    }
    all
}
