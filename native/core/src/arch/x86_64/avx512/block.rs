//! AVX-512 with VNNI: products of symbols in memory, in register tiles of 6 rows × 4 panels.
//!
//! The sums of a register tile are added to accumulators or, where the panels reach over all of k, become outputs before
//! they leave the registers. Outputs are seldom in the first cache: their lines are fetched for writing one by one while
//! the tile is multiplied, for all at once at its end would fill the store queue and stop the products behind it.

use crate::arch::operands::{Extent, Rows};
use crate::geometry::{GROUP, GROUPS, PANEL};
use std::arch::x86_64::*;

/// Panels that a register tile spans.
pub(super) const TILE_PANELS: usize = 4;

/// Where the sums of register tiles go. Addresses are those of the first row and column of the first tile.
pub(in crate::arch::x86_64) trait Destination: Copy {
    /// For the tile `row` rows and `panel` panels on.
    ///
    /// # Safety
    /// That tile exists.
    unsafe fn at(self, row: usize, panel: usize) -> Self;
    /// Fetches some of the tile's MR · NR vectors for writing.
    ///
    /// # Safety
    /// As for [`Self::store`].
    unsafe fn prefetch<const MR: usize, const NR: usize>(self, part: usize, parts: usize);
    /// Takes a tile's sums.
    ///
    /// # Safety
    /// AVX-512; MR rows of 16 · NR columns from here on belong to this destination.
    unsafe fn store<const MR: usize, const NR: usize>(self, sums: &[[__m512i; NR]; MR]);
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
    unsafe fn at(self, row: usize, panel: usize) -> Self {
        // SAFETY: the caller's contract.
        Self { at: unsafe { self.at.add(row * self.stride + panel * PANEL) }, ..self }
    }
    #[inline(always)]
    unsafe fn prefetch<const MR: usize, const NR: usize>(self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(self, sums: &[[__m512i; NR]; MR]) {
        for (i, row) in sums.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                // SAFETY: i < MR, j < NR.
                unsafe {
                    let at = self.at.add(i * self.stride + j * PANEL).cast();
                    let before = if self.overwrite { _mm512_setzero_si512() } else { _mm512_loadu_si512(at) };
                    _mm512_storeu_si512(at, _mm512_add_epi32(before, *sum));
                }
            }
        }
    }
}

/// Multiplies panels that begin `panel_bytes` apart.
///
/// # Safety
/// All features of the kernel; symbols and rows cover the extent, and so does what the sums go to.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::arch::x86_64) unsafe fn multiply<D: Destination>(
    symbols: *const u8,
    panel_bytes: usize,
    extent: Extent,
    rows: &Rows<'_>,
    to: D,
) {
    let xs = rows.stride();
    let steps = extent.fractals();
    let mut panel = 0;
    while panel < extent.panels() {
        let wide = if extent.panels() - panel >= TILE_PANELS { TILE_PANELS } else { 1 };
        let mut row = 0;
        while row < rows.m() {
            let high = (rows.m() - row).min(6);
            // SAFETY: the tile lies inside of what the caller promises.
            unsafe {
                let w = symbols.add(panel * panel_bytes);
                let x = rows.data().as_ptr().add(row * xs);
                let to = to.at(row, panel);
                match (high, wide) {
                    (6, 4) => tile::<6, 4, D>(w, panel_bytes, steps, x, xs, to),
                    (5, 4) => tile::<5, 4, D>(w, panel_bytes, steps, x, xs, to),
                    (4, 4) => tile::<4, 4, D>(w, panel_bytes, steps, x, xs, to),
                    (3, 4) => tile::<3, 4, D>(w, panel_bytes, steps, x, xs, to),
                    (2, 4) => tile::<2, 4, D>(w, panel_bytes, steps, x, xs, to),
                    (1, 4) => tile::<1, 4, D>(w, panel_bytes, steps, x, xs, to),
                    (6, _) => tile::<6, 1, D>(w, panel_bytes, steps, x, xs, to),
                    (5, _) => tile::<5, 1, D>(w, panel_bytes, steps, x, xs, to),
                    (4, _) => tile::<4, 1, D>(w, panel_bytes, steps, x, xs, to),
                    (3, _) => tile::<3, 1, D>(w, panel_bytes, steps, x, xs, to),
                    (2, _) => tile::<2, 1, D>(w, panel_bytes, steps, x, xs, to),
                    _ => tile::<1, 1, D>(w, panel_bytes, steps, x, xs, to),
                }
            }
            row += high;
        }
        panel += wide;
    }
}

/// One register tile.
///
/// # Safety
/// AVX-512 with VNNI; `w` points to NR panels of `fractals` fractals, `panel_bytes` apart, `x` to MR rows as long, `to` has MR rows of 16 · NR
/// columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile<const MR: usize, const NR: usize, D: Destination>(
    w: *const u8,
    panel_bytes: usize,
    fractals: usize,
    x: *const i8,
    x_stride: usize,
    to: D,
) {
    let mut sums = [[_mm512_setzero_si512(); NR]; MR];
    for fractal in 0..fractals {
        // SAFETY: as promised by the caller.
        unsafe { to.prefetch::<MR, NR>(fractal, fractals) };
        for s in fractal * GROUPS..(fractal + 1) * GROUPS {
            let mut weights = [_mm512_setzero_si512(); NR];
            for (j, weight) in weights.iter_mut().enumerate() {
                // SAFETY: j < NR, s is a group of the panel.
                *weight = unsafe { _mm512_loadu_si512(w.add(j * panel_bytes + s * GROUP).cast()) };
            }
            for (i, row) in sums.iter_mut().enumerate() {
                // SAFETY: i < MR, s is four elements of the row.
                let x4 = _mm512_set1_epi32(unsafe { x.add(i * x_stride).cast::<i32>().add(s).read_unaligned() });
                for (sum, weight) in row.iter_mut().zip(&weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, *weight, x4);
                }
            }
        }
    }
    // SAFETY: as promised by the caller.
    unsafe { to.store(&sums) };
}
