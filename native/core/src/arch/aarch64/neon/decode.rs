//! Decoding of a tile, a group of 64 lanes at a time:
//!
//! ```text
//! field  = root field of every lane                      shifts and masks of the rows
//!
//! ranks by distance, whose fields hold offsets:
//! open   = offset + T / 2 >= T                           addition, compare
//! symbol = (offset ^ expand(sums) in the lanes of open) + centre
//!
//! stored ranks:
//! open   = field >= T
//! symbol = table[(field + expand(sums) in the lanes of open) mod 128]     two look-ups of 64 bytes each
//!          ^ mask where that is >= 128
//! ```

use super::expand::{expand, mask};
use super::levels::continuations;
use crate::arch::kernel::Damaged;
use crate::arch::operands::{Extent, TileCode};
use crate::codec::Order;
use crate::codec::decode::CodedTile;
use crate::geometry::{FRACTAL, GROUP, GROUPS};
use std::arch::aarch64::*;

/// Lanes of a register, and registers of a group.
const LANES: usize = 16;
const QUARTERS: usize = GROUP / LANES;

/// Decodes a tile into panels that are `stride` apart.
#[target_feature(enable = "neon")]
pub fn decode_panels(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    sums: &mut [Vec<u8>; 2],
    out: &mut [u8],
    stride: usize,
) -> Result<(), Damaged> {
    let panel = extent.panel();
    let row = code.code.root_bits() * GROUP;
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * row);
    let total = continuations(code, tile, extent.weights(), sums).ok_or(Damaged)?;
    let mut taken = 0;
    for (p, roots) in tile.roots.chunks_exact(extent.fractals() * row).enumerate() {
        let out = &mut out[p * stride..][..panel];
        let sums = &sums[0][taken..];
        taken += match code.code.order() {
            Order::Distance(centre) => decode_panel(&ByDistance::new(code, *centre), code, roots, sums, out),
            Order::Stored(stored) => decode_panel(&LookedUp::new(code, stored.mask()), code, roots, sums, out),
        };
    }
    // Everything was consumed exactly.
    (taken == total).then_some(()).ok_or(Damaged)
}

/// Decodes a panel with the next of the sums; how many it took.
#[target_feature(enable = "neon")]
fn decode_panel<K: Ranks>(ranks: &K, code: &TileCode, roots: &[u8], sums: &[u8], out: &mut [u8]) -> usize {
    match code.code.root_bits() {
        1 => fractals::<K, 1>(ranks, roots, sums, out),
        2 => fractals::<K, 2>(ranks, roots, sums, out),
        3 => fractals::<K, 3>(ranks, roots, sums, out),
        4 => fractals::<K, 4>(ranks, roots, sums, out),
        5 => fractals::<K, 5>(ranks, roots, sums, out),
        6 => fractals::<K, 6>(ranks, roots, sums, out),
        _ => fractals::<K, 7>(ranks, roots, sums, out),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn fractals<K: Ranks, const R: usize>(ranks: &K, roots: &[u8], sums: &[u8], out: &mut [u8]) -> usize {
    let mut taken = 0;
    for (rows, out) in roots.chunks_exact(R * GROUP).zip(out.chunks_exact_mut(FRACTAL)) {
        let (rows, _) = rows.as_chunks::<LANES>();
        for (g, out) in out.chunks_exact_mut(GROUP).enumerate() {
            let fields = root_fields::<R>(rows, g);
            // SAFETY: this function has the feature.
            let open = mask(fields.map(|fields| unsafe { ranks.open(fields) }));
            let (gains, ones) = expand(open, &sums[taken..]);
            taken += ones;
            for ((fields, gains), out) in fields.into_iter().zip(gains).zip(out.as_chunks_mut::<LANES>().0) {
                // SAFETY: as above; sixteen bytes are what is written.
                unsafe { vst1q_u8(out.as_mut_ptr(), ranks.symbols(fields, gains)) };
            }
        }
    }
    taken
}

/// The root fields of group `g` of a fractal.
#[inline(always)]
fn root_fields<const R: usize>(rows: &[[u8; LANES]], g: usize) -> [uint8x16_t; QUARTERS] {
    debug_assert!(g < GROUPS);
    let (byte, shift) = (g * R / 8, g * R % 8);
    std::array::from_fn(|quarter| {
        // SAFETY: sixteen bytes are what is read, and every processor of this architecture has the feature.
        unsafe {
            let row = |b: usize| vld1q_u8(rows[b * QUARTERS + quarter].as_ptr());
            let low = vshlq_u8(row(byte), vdupq_n_s8(-(shift as i8)));
            let all = if shift + R <= 8 {
                low
            } else {
                vorrq_u8(low, vshlq_u8(row(byte + 1), vdupq_n_s8(8 - shift as i8)))
            };
            vandq_u8(all, vdupq_n_u8(((1u16 << R) - 1) as u8))
        }
    })
}

/// What is done with root fields, and with what the sums of their levels give.
trait Ranks {
    /// Lanes whose weights are continued: all ones there.
    ///
    /// # Safety
    /// NEON.
    unsafe fn open(&self, fields: uint8x16_t) -> uint8x16_t;
    /// # Safety
    /// NEON.
    unsafe fn symbols(&self, fields: uint8x16_t, gains: uint8x16_t) -> uint8x16_t;
}

/// Ranks by distance from a centre.
struct ByDistance {
    /// The sign bit of a root field.
    sign: uint8x16_t,
    to_tested: uint8x16_t,
    threshold: uint8x16_t,
    centre: uint8x16_t,
}

impl ByDistance {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(code: &TileCode, centre: u8) -> Self {
        let code = &code.code;
        let sign = 1u8 << (code.root_bits() - 1);
        Self {
            sign: vdupq_n_u8(sign),
            to_tested: vdupq_n_u8(code.first_continued().wrapping_sub(sign)),
            threshold: vdupq_n_u8(code.direct()),
            centre: vdupq_n_u8(centre),
        }
    }
}

impl Ranks for ByDistance {
    #[inline(always)]
    unsafe fn open(&self, fields: uint8x16_t) -> uint8x16_t {
        // SAFETY: the caller's contract.
        unsafe { vcgeq_u8(vaddq_u8(veorq_u8(fields, self.sign), self.to_tested), self.threshold) }
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: uint8x16_t, gains: uint8x16_t) -> uint8x16_t {
        // SAFETY: the caller's contract.
        unsafe {
            let offsets = vsubq_u8(veorq_u8(fields, self.sign), self.sign);
            vaddq_u8(veorq_u8(offsets, gains), self.centre)
        }
    }
}

/// Ranks that are looked up; those of 128 and more with the mask.
struct LookedUp {
    threshold: uint8x16_t,
    table: [uint8x16x4_t; 2],
    mask: uint8x16_t,
}

impl LookedUp {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(code: &TileCode, mask: u8) -> Self {
        // SAFETY: two times 64 bytes of 256.
        let table = [0, 64].map(|at| unsafe { vld1q_u8_x4(code.table[at..].as_ptr()) });
        Self { threshold: vdupq_n_u8(code.code.direct()), table, mask: vdupq_n_u8(mask) }
    }
}

impl Ranks for LookedUp {
    #[inline(always)]
    unsafe fn open(&self, fields: uint8x16_t) -> uint8x16_t {
        // SAFETY: the caller's contract.
        unsafe { vcgeq_u8(fields, self.threshold) }
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: uint8x16_t, gains: uint8x16_t) -> uint8x16_t {
        // SAFETY: the caller's contract.
        unsafe {
            let ranks = vaddq_u8(fields, gains);
            let low = vandq_u8(ranks, vdupq_n_u8(0x7f));
            // Behind the table's end the first gives 0, and the second what it was given.
            let symbols = vqtbl4q_u8(self.table[0], low);
            let symbols = vqtbx4q_u8(symbols, self.table[1], vsubq_u8(low, vdupq_n_u8(64)));
            veorq_u8(symbols, vandq_u8(vcgeq_u8(ranks, vdupq_n_u8(0x80)), self.mask))
        }
    }
}
