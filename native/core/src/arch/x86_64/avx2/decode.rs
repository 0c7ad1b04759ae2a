//! Decoding of a tile, panel by panel, in passes over a few kilobytes that stay in the first cache:
//!
//! ```text
//! fields  = root field of every lane                      shifts and masks of the rows
//! open    = fields that are continued                     compare, and collect the signs of 64 lanes
//! digits  = deposit(next bits of each plane, open)        see `planes`
//! sums    = a step · digits                               a digit of 64 lanes becomes bytes by shuffle and compare
//! symbols of fields and sums, as `generic` says; but stored ranks are looked up later:
//! symbols = table[ranks mod 128]                          a shuffle for 16 ranks each, joined by exclusive or
//!           ^ mask where ranks >= 128
//!
//! symbols of escapes, with their bytes                    one by one, from a list of their positions
//! ```

use super::group::Halves;
use super::planes::{Continuations, ESCAPES_AT_ONCE, MAX_PLANES, PLANE};
use super::symbols::{deltas, look_up, look_up_all, root_fields};
use crate::arch::generic::{ByDistance, ToBeLookedUp, with_root_bits};
use crate::arch::kernel::{Refused, resize};
use crate::arch::operands::{Coded, TileCode};
use crate::arch::workspace::Scratch;
use crate::codec::Order;
use crate::geometry::{FRACTAL, GROUP};
use std::arch::x86_64::__m256i;

/// Memory that a thread keeps from tile to tile, some kilobytes for the largest one.
#[derive(Default)]
pub(in crate::arch::x86_64) struct Memory {
    /// Planes of the level that is being built, and of the one below it.
    planes: [Vec<[u64; PLANE]>; 2],
    /// Root fields of a panel.
    fields: Vec<u8>,
    /// Ranks of a panel, if they are stored.
    ranks: Vec<u8>,
    /// Symbols of a panel.
    symbols: Vec<u8>,
    /// Positions of a panel's escapes.
    escapes: Vec<u16>,
}

/// As [`TileKernel::decode`](crate::arch::TileKernel::decode).
///
/// # Panics
/// As there.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(in crate::arch::x86_64) fn decode<const PDEP: bool>(
    coded: Coded<'_>,
    out: &mut [u8],
    stride: usize,
    scratch: &mut Scratch,
) -> Result<(), Refused> {
    decode_panels::<PDEP>(coded, scratch.of(), |p, symbols| {
        out[p * stride..][..symbols.len()].copy_from_slice(symbols);
    })
}

/// Decodes all panels of a tile, one after the other, and hands each to `sink`.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(in crate::arch::x86_64) fn decode_panels<const PDEP: bool>(
    Coded { code, tile, extent }: Coded<'_>,
    memory: &mut Memory,
    mut sink: impl FnMut(usize, &[u8]),
) -> Result<(), Refused> {
    let row = code.code.root_bits() * GROUP;
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * row);
    let Memory { planes, fields, ranks, symbols, escapes } = memory;
    // Asked before: a plane of zeros for each tile would be a part of the work.
    for planes in planes.iter_mut().filter(|planes| planes.is_empty()) {
        resize(planes, MAX_PLANES, [0; PLANE])?;
    }
    let planes = planes.each_mut().map(|planes| planes.first_chunk_mut().expect("there is room"));
    let continuations = Continuations::<PDEP>::new(code, tile, extent.weights(), planes);
    let mut continuations = continuations.ok_or(Refused::Damaged)?;
    let panel = extent.panel();
    for buffer in [&mut *fields, ranks, symbols] {
        resize(buffer, panel, 0)?;
    }
    resize(escapes, panel + ESCAPES_AT_ONCE, 0)?;
    let way = Way::new(code);
    for (p, roots) in tile.roots.chunks_exact(extent.fractals() * row).enumerate() {
        let found = match &way {
            Way::Distance { ranks, .. } => {
                with_root_bits!(code.code.root_bits(), R => root_fields::<R, true>(roots, fields));
                continuations.apply_all(*ranks, fields, symbols, escapes)
            }
            Way::Stored { stored, .. } => {
                with_root_bits!(code.code.root_bits(), R => root_fields::<R, false>(roots, fields));
                continuations.apply_all(*stored, fields, ranks, escapes)
            }
        };
        let bytes = continuations.escape_bytes(found).ok_or(Refused::Damaged)?;
        let escaped = escapes.iter().map(|&at| usize::from(at)).zip(bytes);
        match &way {
            Way::Distance { centre, base, .. } => {
                for (at, byte) in escaped {
                    let symbol = &mut symbols[at];
                    let differing = base ^ base.wrapping_add(*byte);
                    *symbol = (symbol.wrapping_sub(*centre) ^ differing).wrapping_add(*centre);
                }
            }
            Way::Stored { deltas, last, mask, .. } => {
                look_up_ranks(ranks, deltas, (*last, *mask), symbols);
                escaped.for_each(|(at, byte)| symbols[at] = code.table[usize::from(ranks[at].wrapping_add(*byte))]);
            }
        }
        sink(p, symbols);
    }
    continuations.is_finished().then_some(()).ok_or(Refused::Damaged)
}

/// How root fields become symbols, and what that needs: made once a tile.
enum Way {
    /// At once, around a centre. An escape's byte is added to `base`: it takes the place of the last step.
    Distance { ranks: ByDistance<Halves, true>, centre: u8, base: u8 },
    /// By way of ranks, of which `last` is the greatest that is not an escape's. They are looked up in a table given by
    /// differences, with a mask for the upper half.
    Stored { stored: ToBeLookedUp<Halves>, deltas: [__m256i; 8], last: usize, mask: u8 },
}

impl Way {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn new(code: &TileCode) -> Self {
        let of = &code.code;
        // SAFETY: the features are this function's.
        unsafe {
            match of.order() {
                Order::Distance(centre) => Self::Distance {
                    ranks: ByDistance::new(code, *centre),
                    centre: *centre,
                    base: of.first_continued().wrapping_add(of.escape_base()),
                },
                Order::Stored(order) => Self::Stored {
                    stored: ToBeLookedUp::new(code),
                    deltas: deltas(&code.table),
                    last: (1 << of.root_bits()) - 1 + usize::from(of.step()) * of.levels().saturating_sub(1),
                    mask: order.mask(),
                },
            }
        }
    }
}

/// Looks ranks up, in as many vectors of the table as the greatest of them needs.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn look_up_ranks(ranks: &[u8], deltas: &[__m256i; 8], (last, mask): (usize, u8), symbols: &mut [u8]) {
    match last / 16 {
        0 => look_up::<1>(ranks, deltas, symbols),
        1 => look_up::<2>(ranks, deltas, symbols),
        2 => look_up::<3>(ranks, deltas, symbols),
        3 => look_up::<4>(ranks, deltas, symbols),
        4 => look_up::<5>(ranks, deltas, symbols),
        5 => look_up::<6>(ranks, deltas, symbols),
        6 => look_up::<7>(ranks, deltas, symbols),
        7 => look_up::<8>(ranks, deltas, symbols),
        _ => look_up_all(ranks, deltas, mask, symbols),
    }
}
