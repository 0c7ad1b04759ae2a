//! Decoding of a tile, a group of 64 lanes at a time, as [`generic`](crate::arch::generic) says; root fields by shifts and masks of
//! the rows.

use super::expand::BEHIND;
use super::group::{LANES, QUARTERS, Quarters};
use crate::arch::generic::{ByDistance, Expand, Group, LookedUp, Ranks, continuations, with_root_bits};
use crate::arch::kernel::{Refused, resize};
use crate::arch::operands::{Coded, TileCode};
use crate::codec::Order;
use crate::codec::decode::CodedTile;
use crate::geometry::{FRACTAL, GROUP, GROUPS};
use std::arch::aarch64::*;
use std::arch::asm;

/// Fetches the tile behind the one that is decoded, evenly, a line at most for each group: a tile's parts are too short for
/// the hardware prefetcher to find their pace.
struct Ahead {
    at: *const u8,
    /// Bytes for each group.
    pace: usize,
}

impl Ahead {
    /// The tile behind this one, which is taken to be as long.
    fn of(tile: &CodedTile<'_>, weights: usize) -> Self {
        let pace = (tile.roots.len() + tile.len) * GROUP / weights.max(1);
        Self { at: tile.rest[tile.len..].as_ptr(), pace }
    }

    /// The next bytes, into the second cache.
    #[inline(always)]
    fn fetch(&mut self) {
        // SAFETY: a hint, which accepts any address.
        unsafe {
            asm!("prfm pldl2keep, [{at}]", at = in(reg) self.at, options(nostack, preserves_flags, readonly));
        }
        self.at = self.at.wrapping_add(self.pace);
    }
}

/// Decodes a tile into panels that are `stride` apart.
#[target_feature(enable = "neon")]
pub fn decode_panels(
    Coded { code, tile, extent }: Coded<'_>,
    sums: &mut [Vec<u8>; 2],
    out: &mut [u8],
    stride: usize,
) -> Result<(), Refused> {
    let panel = extent.panel();
    let row = code.code.root_bits() * GROUP;
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * row);
    let limit = extent.weights();
    for sums in &mut *sums {
        resize(sums, limit + GROUP, 0)?;
    }
    let addresses = sums.each_mut().map(|sums| sums.as_mut_ptr());
    // SAFETY: both sums have room for all weights and what is read behind them, and the feature is this function's.
    let total = unsafe { continuations::<Quarters, ()>(code, tile, limit, addresses, &mut (), |_, _| ()) };
    let total = total.ok_or(Refused::Damaged)?;
    let mut ahead = Ahead::of(tile, limit);
    let mut taken = 0;
    for (p, roots) in tile.roots.chunks_exact(extent.fractals() * row).enumerate() {
        let out = &mut out[p * stride..][..panel];
        let sums = &sums[0][taken..];
        // SAFETY: the feature is this function's.
        taken += unsafe {
            match code.code.order() {
                Order::Distance(0x80) => {
                    panel_of(&ByDistance::<Quarters, false>::new(code, 0x80), code, roots, sums, out, &mut ahead)
                }
                Order::Distance(centre) => {
                    panel_of(&ByDistance::<Quarters, true>::new(code, *centre), code, roots, sums, out, &mut ahead)
                }
                Order::Stored(stored) if stored.mask() == 0 => {
                    panel_of(&LookedUp::<Quarters, false>::new(code, 0), code, roots, sums, out, &mut ahead)
                }
                Order::Stored(stored) => panel_of(
                    &LookedUp::<Quarters, true>::new(code, stored.mask()),
                    code,
                    roots,
                    sums,
                    out,
                    &mut ahead,
                ),
            }
        };
    }
    // Everything was consumed exactly.
    (taken == total).then_some(()).ok_or(Refused::Damaged)
}

/// Decodes a panel with the next of the sums; how many it took.
#[target_feature(enable = "neon")]
fn panel_of<K: Ranks<Quarters>>(
    ranks: &K,
    code: &TileCode,
    roots: &[u8],
    sums: &[u8],
    out: &mut [u8],
    ahead: &mut Ahead,
) -> usize {
    with_root_bits!(code.code.root_bits(), R => fractals::<K, R>(ranks, roots, sums, out, ahead))
}

#[inline]
#[target_feature(enable = "neon")]
fn fractals<K: Ranks<Quarters>, const R: usize>(
    ranks: &K,
    roots: &[u8],
    sums: &[u8],
    out: &mut [u8],
    ahead: &mut Ahead,
) -> usize {
    let mut taken = 0;
    for (rows, out) in roots.chunks_exact(R * GROUP).zip(out.chunks_exact_mut(FRACTAL)) {
        let (rows, _) = rows.as_chunks::<LANES>();
        for (g, out) in out.chunks_exact_mut(GROUP).enumerate() {
            ahead.fetch();
            let fields = if K::OFFSETS { root_fields::<R, true>(rows, g) } else { root_fields::<R, false>(rows, g) };
            // SAFETY: this function has the feature.
            let open = unsafe { ranks.open(fields) };
            let ones = open.count_ones() as usize;
            assert!(sums.len() >= taken + ones + BEHIND);
            // SAFETY: as above; the sums that are taken, and what is read behind them, are there, and a group has 64 bytes.
            unsafe {
                let gains = Quarters::expand(open, sums.as_ptr().add(taken));
                ranks.symbols(fields, gains).store(out.as_mut_ptr());
            }
            taken += ones;
        }
    }
    taken
}

/// The root fields of group `g` of a fractal, as [`Ranks::OFFSETS`] says.
#[inline(always)]
fn root_fields<const R: usize, const OFFSETS: bool>(rows: &[[u8; LANES]], g: usize) -> Quarters {
    debug_assert!(g < GROUPS);
    let (byte, shift) = (g * R / 8, g * R % 8);
    // The sign bit of an offset, and from what it makes when it is turned over to an offset with 128 added.
    let sign = 1u8 << (R - 1);
    Quarters(std::array::from_fn(|quarter| {
        // SAFETY: sixteen bytes are what is read, and every processor of this architecture has the feature.
        unsafe {
            let row = |b: usize| vld1q_u8(rows[b * QUARTERS + quarter].as_ptr());
            let low = vshlq_u8(row(byte), vdupq_n_s8(-(shift as i8)));
            let all = if shift + R <= 8 {
                low
            } else {
                vorrq_u8(low, vshlq_u8(row(byte + 1), vdupq_n_s8(8 - shift as i8)))
            };
            let field = vandq_u8(all, vdupq_n_u8(((1u16 << R) - 1) as u8));
            if OFFSETS {
                vaddq_u8(veorq_u8(field, vdupq_n_u8(sign)), vdupq_n_u8(0x80u8.wrapping_sub(sign)))
            } else {
                field
            }
        }
    }))
}
