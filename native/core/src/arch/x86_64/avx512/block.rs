//! AVX-512 with VNNI: products of symbols in memory, in register tiles of up to 6 rows × 4 panels. Few rows meet one panel at a time,
//! for memory and the caches give sooner what lies together.
//!
//! The sums of a register tile are added to accumulators or, where the panels reach over all of k, become outputs before
//! they leave the registers. Those of many rows are seldom in the first cache: their lines are fetched for writing one by one
//! while the tile is multiplied, for all at once at its end would fill the store queue and stop the products behind it.

use crate::arch::operands::{Accumulators, Extent, GROUP_K, PIECE_K, PanelSteps, Rows};
use crate::arch::x86_64::activations::{Activations, Apart, InPieces, rows_from};
use crate::arch::x86_64::heights::Heights;
use crate::geometry::{GROUP, PANEL};
use std::arch::x86_64::*;

/// Panels of a register tile.
pub(super) const TILE_PANELS: usize = 4;
/// Weights of a block of a panel.
const BLOCK: usize = PanelSteps::BLOCK * GROUP;

/// Whether one panel at a time is multiplied, by m rows of k: as long as the rows stay in the first cache beside it, and are visited
/// so seldom that it counts how soon weights come. docs/experiments/2026-11-30-zen4.md.
fn by_one_panel(m: usize, k: usize) -> bool {
    let most = match m {
        ..=3 => usize::MAX,
        4..=8 => 1 << 14,
        9..=18 => 1 << 13,
        _ => 0,
    };
    m.saturating_mul(k) <= most
}

/// What is multiplied: the instruction takes uint8 and int8.
pub(in crate::arch::x86_64) trait Products: Sized {
    /// Whether rows have all that an extent's weights are multiplied with.
    fn are_covered(extent: Extent, rows: &Rows<'_>) -> bool;
    /// Multiplies panels that lie one behind the other.
    ///
    /// # Safety
    /// All features of [`Avx512Vnni`](super::Avx512Vnni); symbols and what the sums go to cover the extent, and it [covers](Self::are_covered) rows.
    unsafe fn multiply<D: Destination>(symbols: *const u8, extent: Extent, rows: &Rows<'_>, to: &D);
    /// Adds the products of four activations and those weights of 16 columns that meet them.
    ///
    /// # Safety
    /// AVX-512 with VNNI.
    unsafe fn add(sum: __m512i, weights: __m512i, x4: __m512i) -> __m512i;
}

/// Symbols, uint8, by packed activations, int8.
pub(in crate::arch::x86_64) struct OfSymbols;

impl Products for OfSymbols {
    fn are_covered(extent: Extent, rows: &Rows<'_>) -> bool {
        rows.covers(extent.k())
    }
    unsafe fn multiply<D: Destination>(symbols: *const u8, extent: Extent, rows: &Rows<'_>, to: &D) {
        // SAFETY: the caller's contract.
        unsafe { multiply(symbols, extent.panel(), extent, rows, to) };
    }
    #[inline(always)]
    unsafe fn add(sum: __m512i, weights: __m512i, x4: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_dpbusd_epi32(sum, weights, x4) }
    }
}

/// Symbols with their sign bits turned over, int8, by activations as they are in the model, uint8.
pub(in crate::arch::x86_64) struct OfBytes;

impl Products for OfBytes {
    fn are_covered(extent: Extent, rows: &Rows<'_>) -> bool {
        rows.covers_groups(extent.k())
    }
    unsafe fn multiply<D: Destination>(symbols: *const u8, extent: Extent, rows: &Rows<'_>, to: &D) {
        // SAFETY: the caller's contract.
        unsafe { multiply_bytes(symbols, extent, rows, to) };
    }
    #[inline(always)]
    unsafe fn add(sum: __m512i, weights: __m512i, x4: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_dpbusd_epi32(sum, x4, weights) }
    }
}

/// # Panics
/// If the rows or accumulators do not cover the tile.
pub(in crate::arch::x86_64) fn check_operands(extent: Extent, rows: &Rows<'_>, acc: &Accumulators<'_>) {
    assert!(rows.covers(extent.k()));
    assert!(acc.covers(rows.m(), extent.columns()));
}

/// Where the sums of register tiles go.
pub(in crate::arch::x86_64) trait Destination {
    /// Fetches some of the MR · NR vectors of the tile that begins with row `row` and panel `panel` for writing.
    ///
    /// # Safety
    /// As for [`Self::store`].
    unsafe fn prefetch<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, part: usize, parts: usize);
    /// Takes the sums of that tile.
    ///
    /// # Safety
    /// AVX-512; this destination has MR rows from there on, and the first column of each of NR panels.
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &[[__m512i; NR]; MR]);
}

/// Sums are added to accumulators in memory.
#[derive(Clone, Copy)]
pub(in crate::arch::x86_64) struct Accumulate {
    pub at: *mut i32,
    /// Distance of rows.
    pub stride: usize,
    /// Overwrite instead of adding.
    pub overwrite: bool,
}

impl Destination for Accumulate {
    #[inline(always)]
    unsafe fn prefetch<const MR: usize, const NR: usize>(&self, _: usize, _: usize, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &[[__m512i; NR]; MR]) {
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                // SAFETY: the caller's contract, with all columns of the panels.
                unsafe {
                    let at = self.at.add((row + i) * self.stride + (panel + j) * PANEL).cast();
                    let before = if self.overwrite { _mm512_setzero_si512() } else { _mm512_loadu_si512(at) };
                    _mm512_storeu_si512(at, _mm512_add_epi32(before, *sum));
                }
            }
        }
    }
}

/// Multiplies symbols in panels that begin `panel_bytes` apart.
///
/// # Safety
/// All features of [`Avx512Vnni`](super::Avx512Vnni); symbols and rows cover the extent, and so does what the sums go to.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::arch::x86_64) unsafe fn multiply<D: Destination>(
    symbols: *const u8,
    panel_bytes: usize,
    extent: Extent,
    rows: &Rows<'_>,
    to: &D,
) {
    let x = Apart { at: rows.data().as_ptr().cast(), stride: rows.stride() };
    let operands = Operands { symbols, panel_bytes, blocks: extent.k() / PIECE_K, rest: 0, x };
    // SAFETY: the caller's contract.
    unsafe { panels::<OfSymbols, _, D>(operands, extent.panels(), rows.m(), to) };
}

/// As [`multiply`], of activations as they are in the model, which may lie in pieces, and panels one behind the other. Rows may end
/// with any group.
///
/// # Safety
/// As there, but for rows, which cover the extent's groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_bytes<D: Destination>(symbols: *const u8, extent: Extent, rows: &Rows<'_>, to: &D) {
    // SAFETY: the caller's contract.
    unsafe {
        let (k, at, panel_bytes) = (rows.k().min(extent.k()), rows.data().as_ptr().cast(), extent.panel());
        let (blocks, rest) = (k / PIECE_K, k % PIECE_K / GROUP_K);
        let Some(pieces) = rows.pieces() else {
            let x = Apart { at, stride: rows.stride() };
            let operands = Operands { symbols, panel_bytes, blocks, rest, x };
            return panels::<OfBytes, _, D>(operands, extent.panels(), rows.m(), to);
        };
        let operands = Operands { symbols, panel_bytes, blocks, rest: 0, x: InPieces { at, pieces } };
        panels::<OfBytes, _, D>(operands, extent.panels(), rows.m(), to);
    }
}

/// What is multiplied.
#[derive(Clone, Copy)]
struct Operands<X> {
    symbols: *const u8,
    panel_bytes: usize,
    /// Of a panel, those that are no padding.
    blocks: usize,
    /// Groups behind them that are none.
    rest: usize,
    x: X,
}

/// Some panels by m rows, tile by tile.
///
/// # Safety
/// As for [`multiply`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn panels<P: Products, X: Activations, D: Destination>(
    operands: Operands<X>,
    panels: usize,
    m: usize,
    to: &D,
) {
    let one = by_one_panel(m, operands.blocks * PIECE_K);
    let (heights, mut panel) = (Heights::of(m), 0);
    while panel < panels {
        let wide = if !one && panels - panel >= TILE_PANELS { TILE_PANELS } else { 1 };
        let mut row = 0;
        while row < m {
            let (high, at) = (heights.from(row), (row, panel));
            // SAFETY: the tile lies inside of what the caller promises.
            unsafe {
                match (high, wide) {
                    (6, TILE_PANELS) => tile::<P, X, 6, TILE_PANELS, 1, D>(operands, at, to),
                    (5, TILE_PANELS) => tile::<P, X, 5, TILE_PANELS, 1, D>(operands, at, to),
                    (4, TILE_PANELS) => tile::<P, X, 4, TILE_PANELS, 1, D>(operands, at, to),
                    (3, TILE_PANELS) => tile::<P, X, 3, TILE_PANELS, 1, D>(operands, at, to),
                    (6, _) => tile::<P, X, 6, 1, 2, D>(operands, at, to),
                    (5, _) => tile::<P, X, 5, 1, 2, D>(operands, at, to),
                    (4, _) => tile::<P, X, 4, 1, 4, D>(operands, at, to),
                    (3, _) => tile::<P, X, 3, 1, 4, D>(operands, at, to),
                    (2, _) => tile::<P, X, 2, 1, 4, D>(operands, at, to),
                    _ => tile::<P, X, 1, 1, 4, D>(operands, at, to),
                }
            }
            row += high;
        }
        panel += wide;
    }
}

/// One register tile, from `row` and `panel` on; groups along k are added up in `ACC` turns, for sums to wait less for each other.
///
/// # Safety
/// As for [`multiply`]; there are MR rows and NR panels from there on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile<P: Products, X: Activations, const MR: usize, const NR: usize, const ACC: usize, D: Destination>(
    Operands { symbols, panel_bytes, blocks, rest, x }: Operands<X>,
    (row, panel): (usize, usize),
    to: &D,
) {
    let mut turns = [[[_mm512_setzero_si512(); NR]; MR]; ACC];
    // SAFETY: as promised by the caller.
    unsafe {
        let (w, rows) = (symbols.add(panel * panel_bytes), rows_from::<MR>(x, row));
        for at in 0..blocks {
            if NR == TILE_PANELS {
                to.prefetch::<MR, NR>(row, panel, at, blocks);
            }
            let (w, from) = (w.add(at * BLOCK), x.block(at, 1));
            for g in 0..PanelSteps::BLOCK {
                let w = w.add(g * GROUP);
                add_group::<P, MR, NR>(&mut turns[g % ACC], (w, panel_bytes), (&rows, from + g * GROUP_K));
            }
        }
        let (w, from) = (w.add(blocks * BLOCK), blocks * PIECE_K);
        for g in 0..rest {
            let w = w.add(g * GROUP);
            add_group::<P, MR, NR>(&mut turns[0], (w, panel_bytes), (&rows, from + g * GROUP_K));
        }
        let mut sums = turns[0];
        for turn in &turns[1..] {
            for (sums, turn) in sums.iter_mut().zip(turn) {
                for (sum, turn) in sums.iter_mut().zip(turn) {
                    *sum = _mm512_add_epi32(*sum, *turn);
                }
            }
        }
        to.store(row, panel, &sums);
    }
}

/// Adds the products of a group of each panel to the sums.
///
/// # Safety
/// As for [`multiply`]; the panels have the group, and rows the activations that it meets.
#[inline(always)]
unsafe fn add_group<P: Products, const MR: usize, const NR: usize>(
    sums: &mut [[__m512i; NR]; MR],
    (w, panel_bytes): (*const u8, usize),
    (rows, at): (&[*const u8; MR], usize),
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut weights = [_mm512_setzero_si512(); NR];
        for (j, weights) in weights.iter_mut().enumerate() {
            *weights = _mm512_loadu_si512(w.add(j * panel_bytes).cast());
        }
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x4 = _mm512_set1_epi32(row.add(at).cast::<i32>().read_unaligned());
            for (sum, weights) in sums.iter_mut().zip(&weights) {
                *sum = P::add(*sum, *weights, x4);
            }
        }
    }
}
