//! AVX-512 with VNNI: products of symbols in memory, in register tiles of 6 rows × 4 panels.
//!
//! The sums of a register tile are added to accumulators or, where the panels reach over all of k, become outputs before
//! they leave the registers. Outputs are seldom in the first cache: their lines are fetched for writing one by one while
//! the tile is multiplied, for all at once at its end would fill the store queue and stop the products behind it.

use crate::arch::rows::{Elementwise, OutputBlock, Terms, Vector, WeightTerm};
use crate::arch::{Extent, Rows};
use crate::container::geometry::{GROUP, GROUPS, PANEL};
use std::arch::x86_64::*;

/// Panels that a register tile spans.
const TILE_PANELS: usize = 4;
/// Columns that a register tile spans.
const TILE_COLUMNS: usize = TILE_PANELS * PANEL;

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
    pub fresh: bool,
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
                    let before = if self.fresh { _mm512_setzero_si512() } else { _mm512_loadu_si512(at) };
                    _mm512_storeu_si512(at, _mm512_add_epi32(before, *sum));
                }
            }
        }
    }
}

/// What turns the sums of one tile's columns into floats.
pub(in crate::arch::x86_64) struct FinishColumns<'a> {
    out: *mut f32,
    stride: usize,
    /// What does not depend on the row.
    columns: [i32; TILE_COLUMNS],
    scales: [f32; TILE_COLUMNS],
    addends: Option<[f32; TILE_COLUMNS]>,
    /// For all rows, in lines as those of the output.
    elementwise: Elementwise<'a>,
    /// What the kernels' weights exceed the true ones by.
    weight: i32,
    row_sums: &'a [i32],
}

impl<'a> FinishColumns<'a> {
    /// If the block is of this kind: float, one tile wide, one zero point for all columns of the weight.
    ///
    /// # Panics
    /// If the output or the terms have other rows or columns than the block.
    pub fn new<'b: 'a>(columns: usize, m: usize, terms: &Terms<'a>, out: &mut OutputBlock<'b>) -> Option<Self> {
        let OutputBlock::F32(out, scale, addend, elementwise) = out else { return None };
        let WeightTerm::Scalar(weight) = terms.weight else { return None };
        if columns != TILE_COLUMNS {
            return None;
        }
        let columns = terms.columns.try_into().ok()?;
        assert!(out.rows() == m && out.columns() == TILE_COLUMNS && terms.row_sums.len() == m);
        assert!(elementwise.covers(m, TILE_COLUMNS, out.stride()));
        let copied = |vector: &Vector<'_>| {
            let mut values = [0.0; TILE_COLUMNS];
            vector.copy_to(0, &mut values);
            values
        };
        let (addends, scales) = (addend.as_ref().map(copied), copied(scale));
        let (out, stride) = (out.as_mut_ptr(), out.stride());
        let (elementwise, row_sums) = (*elementwise, terms.row_sums);
        Some(Self { out, stride, columns, scales, addends, elementwise, weight, row_sums })
    }

    /// The destination of the first tile.
    pub fn first_row(&self) -> Finish<'_> {
        Finish { columns: self, out: self.out, row: 0 }
    }

    /// Finishes some rows whose sums are in memory, `stride` apart.
    ///
    /// # Safety
    /// AVX-512; the block has rows `row` to `row + count`, and there are sums for them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn rows(&self, row: usize, count: usize, sums: *const i32, stride: usize) {
        for i in 0..count {
            // SAFETY: the caller's contract.
            unsafe {
                let at = sums.add(i * stride);
                let sums = [0, 1, 2, 3].map(|j| _mm512_loadu_si512(at.add(j * PANEL).cast()));
                self.first_row().at(row + i, 0).store::<1, TILE_PANELS>(&[sums]);
            }
        }
    }
}

/// Sums become floats: `fp32(sum + column − weight · row sum) · scale (+ addend) (· gate) (+ residual)`, each an operation
/// of its own.
#[derive(Clone, Copy)]
pub(in crate::arch::x86_64) struct Finish<'a> {
    columns: &'a FinishColumns<'a>,
    out: *mut f32,
    row: usize,
}

impl Destination for Finish<'_> {
    #[inline(always)]
    unsafe fn at(self, row: usize, panel: usize) -> Self {
        debug_assert!(panel == 0, "a block is one tile wide");
        // SAFETY: the caller's contract.
        Self { out: unsafe { self.out.add(row * self.columns.stride) }, row: self.row + row, ..self }
    }
    #[inline(always)]
    unsafe fn prefetch<const MR: usize, const NR: usize>(self, part: usize, parts: usize) {
        let count = (MR * NR).div_ceil(parts);
        for line in part * count..((part + 1) * count).min(MR * NR) {
            let at = self.out.wrapping_add(line / NR * self.columns.stride + line % NR * PANEL);
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
            for of in [self.columns.elementwise.gate, self.columns.elementwise.residual].into_iter().flatten() {
                let at = of.as_ptr().wrapping_add((self.row + line / NR) * self.columns.stride + line % NR * PANEL);
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
            }
        }
    }
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(self, sums: &[[__m512i; NR]; MR]) {
        let of = self.columns;
        for (i, row) in sums.iter().enumerate() {
            // SAFETY: `new` has checked that there is a sum for each row, and that gate and residual cover the output;
            // arrays of 64 hold NR vectors; the caller promises the outputs.
            unsafe {
                let row_sum = *of.row_sums.get_unchecked(self.row + i);
                let row_term = _mm512_set1_epi32(of.weight.wrapping_mul(row_sum));
                let mut values = [_mm512_setzero_ps(); NR];
                for (j, (value, sum)) in values.iter_mut().zip(row).enumerate() {
                    let column = _mm512_loadu_si512(of.columns.as_ptr().add(j * PANEL).cast());
                    let sum = _mm512_add_epi32(*sum, _mm512_sub_epi32(column, row_term));
                    let scale = _mm512_loadu_ps(of.scales.as_ptr().add(j * PANEL));
                    *value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
                    if let Some(addends) = &of.addends {
                        *value = _mm512_add_ps(*value, _mm512_loadu_ps(addends.as_ptr().add(j * PANEL)));
                    }
                }
                let at = (self.row + i) * of.stride;
                if let Some(gate) = of.elementwise.gate {
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = _mm512_mul_ps(*value, _mm512_loadu_ps(gate.as_ptr().add(at + j * PANEL)));
                    }
                }
                if let Some(residual) = of.elementwise.residual {
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = _mm512_add_ps(*value, _mm512_loadu_ps(residual.as_ptr().add(at + j * PANEL)));
                    }
                }
                for (j, value) in values.iter().enumerate() {
                    _mm512_storeu_ps(self.out.add(i * of.stride + j * PANEL), *value);
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
    let steps = extent.fractals;
    let mut panel = 0;
    while panel < extent.panels {
        let wide = if extent.panels - panel >= TILE_PANELS { TILE_PANELS } else { 1 };
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
