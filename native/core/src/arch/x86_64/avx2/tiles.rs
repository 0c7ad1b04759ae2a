//! Multiplications by symbols in memory, in register tiles: four rows by one panel, two by two, or one by four.

use super::products::Products;
use super::steps::BLOCK;
use super::vectors::LANES;
use crate::arch::operands::{Extent, PanelSteps, Rows, Symbols};
use crate::geometry::{GROUP, PANEL};
use std::arch::asm;
use std::arch::x86_64::*;

/// The sums of a register tile: of each row, the halves of each panel.
pub(super) type Sums<const MR: usize, const NR: usize> = [[[__m256i; 2]; NR]; MR];

/// Where the sums of register tiles go.
pub(super) trait Destination {
    /// Takes the sums of the tile that begins with row `row` and panel `panel`.
    ///
    /// # Safety
    /// AVX2; this destination has MR rows from there on, and the first column of each of NR panels.
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>);
}

/// Sums are added to accumulators in memory.
pub(super) struct Accumulate {
    pub at: *mut i32,
    /// Distance of rows.
    pub stride: usize,
    /// Overwrite instead of adding.
    pub overwrite: bool,
}

impl Destination for Accumulate {
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>) {
        for (i, row_of_sums) in sums.iter().enumerate() {
            for (half, sum) in row_of_sums.as_flattened().iter().enumerate() {
                // SAFETY: the caller's contract, with all columns of the panels.
                unsafe {
                    let at = self.at.add((row + i) * self.stride + panel * PANEL + half * PANEL / 2).cast();
                    let sum = if self.overwrite { *sum } else { _mm256_add_epi32(_mm256_loadu_si256(at), *sum) };
                    _mm256_storeu_si256(at, sum);
                }
            }
        }
    }
}

/// Length of a block along k.
const BLOCK_K: usize = 4 * PanelSteps::BLOCK;

/// How far ahead symbols are fetched while they meet several rows, in bytes: one row takes them faster than this gains.
const AHEAD: usize = 4 << 10;

/// Rows of activations as they are multiplied.
#[derive(Clone, Copy)]
struct Activations {
    at: *const u8,
    /// Bytes from row to row.
    stride: usize,
}

/// Multiplies panels that lie one behind the other by all rows.
///
/// # Safety
/// AVX2; what the sums go to covers the extent, with all rows.
///
/// # Panics
/// If symbols or rows do not cover it, or steps are those of other panels.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn multiply<P: Products, D: Destination>(
    Symbols { bytes, steps }: Symbols<'_>,
    extent: Extent,
    rows: &Rows<'_>,
    to: &D,
) {
    assert!(bytes.len() >= extent.weights() && rows.covers(extent.k() * P::WIDTH));
    let blocks = extent.k() / BLOCK_K;
    assert!(steps.iter().take(extent.panels()).all(|steps| steps.is_empty() || steps.blocks() == blocks));
    let x = Activations { at: rows.data().as_ptr().cast(), stride: rows.stride() };
    let operands = Operands { symbols: bytes.as_ptr(), extent, x };
    let (panels, m, rest) = (extent.panels(), rows.m(), rows.m() % 4);
    // SAFETY: tiles of rows and panels that there are.
    unsafe {
        for panel in 0..panels {
            let steps = steps.get(panel).filter(|steps| !steps.is_empty());
            for row in (0..m - rest).step_by(4) {
                // The first rows have a panel fetched for the others.
                match (steps, row) {
                    (Some(steps), 0) => tile_in_steps::<P, 4, true, D>(operands, (row, panel), steps, to),
                    (Some(steps), _) => tile_in_steps::<P, 4, false, D>(operands, (row, panel), steps, to),
                    (None, 0) => _ = tile::<P, 4, 1, true, D>(operands, (row, panel), to),
                    (None, _) => _ = tile::<P, 4, 1, false, D>(operands, (row, panel), to),
                }
            }
        }
        let (mut panel, row) = (0, m - rest);
        while panel < panels && rest > 0 {
            let at = (row, panel);
            panel += match (rest, panels - panel) {
                (1, 4..) => tile::<P, 1, 4, false, D>(operands, at, to),
                (1, 2..) => tile::<P, 1, 2, false, D>(operands, at, to),
                (1, _) => tile::<P, 1, 1, false, D>(operands, at, to),
                (2, 2..) => tile::<P, 2, 2, true, D>(operands, at, to),
                (2, _) => tile::<P, 2, 1, true, D>(operands, at, to),
                _ => tile::<P, 3, 1, true, D>(operands, at, to),
            };
        }
    }
}

/// What is multiplied.
#[derive(Clone, Copy)]
struct Operands {
    symbols: *const u8,
    extent: Extent,
    x: Activations,
}

/// One register tile, from `row` and `panel` on; its panels.
///
/// # Safety
/// As for [`multiply`]; there are MR rows and NR panels from there on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile<P: Products, const MR: usize, const NR: usize, const FETCH: bool, D: Destination>(
    Operands { symbols, extent, x }: Operands,
    (row, panel): (usize, usize),
    to: &D,
) -> usize {
    let mut sums: Sums<MR, NR> = [[[_mm256_setzero_si256(); 2]; NR]; MR];
    // SAFETY: the caller's contract. Plain loops: closures that the standard library calls would not be inlined here.
    unsafe {
        let mut w = symbols.add(panel * extent.panel());
        let mut x_at = x.at.add(row * x.stride);
        for _ in 0..extent.panel() / BLOCK {
            block::<P, MR, NR, FETCH>(&mut sums, (w, extent.panel()), (x_at, x.stride));
            w = w.add(BLOCK);
            x_at = x_at.add(BLOCK_K * P::WIDTH);
        }
        to.store(row, panel, &sums);
    }
    NR
}

/// Adds the products of a block, group by group.
///
/// # Safety
/// As for [`group`], of all groups of the block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block<P: Products, const MR: usize, const NR: usize, const FETCH: bool>(
    sums: &mut Sums<MR, NR>,
    (w, panel): (*const u8, usize),
    (x, stride): (*const u8, usize),
) {
    for g in 0..PanelSteps::BLOCK {
        // SAFETY: the caller's contract.
        unsafe { group::<P, MR, NR, FETCH>(sums, (w.add(g * GROUP), panel), (x.add(4 * g * P::WIDTH), stride)) };
        for sum in sums.as_flattened_mut().as_flattened_mut() {
            *sum = settled(*sum);
        }
    }
}

/// The same sum, which the compiler takes for another: it would add products to one another first, and sums would no longer fit
/// the registers.
#[inline]
#[target_feature(enable = "avx2")]
fn settled(mut sum: __m256i) -> __m256i {
    // SAFETY: nothing is done.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

/// Adds the products of a group; `FETCH`: and has what comes later fetched.
///
/// # Safety
/// As for [`tile`], of the group of each panel that begins at `w`, and of the activations for it that each row has at `x`.
#[inline(always)]
unsafe fn group<P: Products, const MR: usize, const NR: usize, const FETCH: bool>(
    sums: &mut Sums<MR, NR>,
    (w, panel): (*const u8, usize),
    (x, stride): (*const u8, usize),
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut symbols = [[P::symbols(w); 2]; NR];
        for (j, symbols) in symbols.iter_mut().enumerate() {
            let w = w.add(j * panel);
            *symbols = [P::symbols(w), P::symbols(w.add(LANES))];
            if FETCH {
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD).cast());
            }
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let x = P::activations(x.add(i * stride));
            for (sums, symbols) in sums.iter_mut().zip(&symbols) {
                sums[0] = P::add(sums[0], symbols[0], x);
                sums[1] = P::add(sums[1], symbols[1], x);
            }
        }
    }
}

/// One register tile of a single panel, in the steps that are known for it.
///
/// # Safety
/// As for [`tile`]; the steps are of as many blocks as the panel has.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile_in_steps<P: Products, const MR: usize, const FETCH: bool, D: Destination>(
    Operands { symbols, extent, x }: Operands,
    (row, panel): (usize, usize),
    steps: &PanelSteps,
    to: &D,
) {
    let mut sums: Sums<MR, 1> = [[[_mm256_setzero_si256(); 2]; 1]; MR];
    // SAFETY: the caller's contract; `PanelSteps` names blocks that there are.
    unsafe {
        let (w, x_at) = (symbols.add(panel * extent.panel()), x.at.add(row * x.stride));
        let block = |at: &u16| {
            let at = usize::from(*at);
            (w.add(at * BLOCK), x_at.add(at * BLOCK_K * P::WIDTH))
        };
        for at in steps.fours() {
            let (w, x_at) = block(at);
            groups::<P, MR, 4, FETCH>(&mut sums, w, (x_at, x.stride));
        }
        for at in steps.twos() {
            let (w, x_at) = block(at);
            groups::<P, MR, 2, FETCH>(&mut sums, w, (x_at, x.stride));
            groups::<P, MR, 2, FETCH>(&mut sums, w.add(2 * GROUP), (x_at.add(8 * P::WIDTH), x.stride));
        }
        for at in steps.ones() {
            let (w, x_at) = block(at);
            self::block::<P, MR, 1, FETCH>(&mut sums, (w, extent.panel()), (x_at, x.stride));
        }
        to.store(row, panel, &sums);
    }
}

/// The same address, which the compiler takes for another: it would load symbols once for all rows, and sums would no longer fit
/// the registers. `vpmaddubsw` reads them from the first cache as fast.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "the address alone is passed through")]
fn elsewhere(mut at: *const u8) -> *const u8 {
    // SAFETY: nothing is done.
    unsafe { asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
    at
}

/// Adds the products of G groups at once; `FETCH`: and has what comes later fetched.
///
/// # Safety
/// As for [`group`], of so many groups.
#[inline(always)]
unsafe fn groups<P: Products, const MR: usize, const G: usize, const FETCH: bool>(
    sums: &mut Sums<MR, 1>,
    w: *const u8,
    (x, stride): (*const u8, usize),
) {
    // SAFETY: the caller's contract.
    unsafe {
        for g in 0..if FETCH { G } else { 0 } {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD + g * GROUP).cast());
        }
        let mut w = w;
        for (i, [sums]) in sums.iter_mut().enumerate() {
            w = elsewhere(w);
            let mut activations = [P::activations(x.add(i * stride)); G];
            for (g, activations) in activations.iter_mut().enumerate() {
                *activations = P::activations(x.add(i * stride + 4 * g * P::WIDTH));
            }
            sums[0] = P::add_groups(sums[0], w, &activations);
            sums[1] = P::add_groups(sums[1], w.add(LANES), &activations);
        }
    }
}
