//! From the sums of a register tile to outputs, 64 columns at a time or what is left of them: floats, or bytes that are requantised.
//!
//! Both begin with `fp32(sum + column − weight · row sum) · scale`; every step is an operation of its own.

use super::block::{Destination, TILE_PANELS};
use crate::arch::output::{Destination as Memory, Elementwise, Epilogue, Output, ScalarOrPerColumn};
use crate::arch::rows::{Terms, WeightTerm};
use crate::geometry::PANEL;
use std::arch::x86_64::*;
use std::ops::Range;

/// Columns that a register tile spans.
const TILE_COLUMNS: usize = TILE_PANELS * PANEL;

/// Makes the outputs of some rows whose sums are in memory, `stride` apart.
///
/// # Safety
/// AVX-512; the rows are among those of the block that `to` begins, and there are sums for them.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::arch::x86_64) unsafe fn epilogue_of_rows<D: Destination>(
    to: D,
    rows: Range<usize>,
    sums: *const i32,
    stride: usize,
) {
    for (i, row) in rows.enumerate() {
        // SAFETY: the caller's contract.
        unsafe {
            let at = sums.add(i * stride);
            let sums = [0, 1, 2, 3].map(|j| _mm512_loadu_si512(at.add(j * PANEL).cast()));
            to.at(row, 0).store::<1, TILE_PANELS>(&[sums]);
        }
    }
}

/// As [`epilogue_of_rows`], of a block that is narrower than a tile.
///
/// # Safety
/// AVX-512; `to` has those rows and `columns` columns, and there are sums for them.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,bmi2")]
pub(in crate::arch::x86_64) unsafe fn epilogue_of_narrow_rows<C: Columns>(
    to: &C,
    (rows, columns): (usize, usize),
    sums: *const i32,
    stride: usize,
) {
    for i in 0..rows {
        for j in 0..columns.div_ceil(PANEL) {
            let mask = _bzhi_u32(0xffff, (columns - j * PANEL).min(PANEL) as u32) as __mmask16;
            // SAFETY: the mask keeps the access inside of the row's sums; the rest is the caller's contract.
            unsafe {
                let sums = _mm512_maskz_loadu_epi32(mask, sums.add(i * stride + j * PANEL));
                to.store_some(i, j, mask, sums);
            }
        }
    }
}

/// Columns of a block that is one tile wide, or less, whose sums become outputs.
pub(in crate::arch::x86_64) trait Columns: Sized {
    /// Fetches some of the vectors of a tile that begins at `row`, as [`Destination::prefetch`] says.
    ///
    /// # Safety
    /// As for [`Self::store`].
    unsafe fn prefetch<const MR: usize, const NR: usize>(&self, row: usize, part: usize, parts: usize);
    /// Takes the sums of a tile that begins at `row`.
    ///
    /// # Safety
    /// AVX-512; the block has those rows.
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, sums: &[[__m512i; NR]; MR]);
    /// Takes some of the sums of panel `j` of a row.
    ///
    /// # Safety
    /// AVX-512; the block has the row, and those columns of it.
    unsafe fn store_some(&self, row: usize, j: usize, some: __mmask16, sums: __m512i);
    /// The destination of the first tile.
    fn first_row(&self) -> TileOf<'_, Self> {
        TileOf { columns: self, row: 0 }
    }
}

/// A tile of such columns.
pub(in crate::arch::x86_64) struct TileOf<'a, C> {
    columns: &'a C,
    row: usize,
}

// Derived, it would ask for columns that are `Copy`.
impl<C> Clone for TileOf<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for TileOf<'_, C> {}

impl<C: Columns> Destination for TileOf<'_, C> {
    #[inline(always)]
    unsafe fn at(self, row: usize, panel: usize) -> Self {
        debug_assert!(panel == 0, "a block is one tile wide");
        Self { row: self.row + row, ..self }
    }
    #[inline(always)]
    unsafe fn prefetch<const MR: usize, const NR: usize>(self, part: usize, parts: usize) {
        // SAFETY: the caller's contract.
        unsafe { self.columns.prefetch::<MR, NR>(self.row, part, parts) };
    }
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(self, sums: &[[__m512i; NR]; MR]) {
        // SAFETY: the caller's contract.
        unsafe { self.columns.store(self.row, sums) };
    }
}

/// What turns the sums of one tile's columns into floats.
struct Scaling<'a> {
    /// What does not depend on the row.
    columns: [i32; TILE_COLUMNS],
    scales: [f32; TILE_COLUMNS],
    /// What the kernels' weights exceed the true ones by.
    weight: i32,
    row_sums: &'a [i32],
}

impl<'a> Scaling<'a> {
    /// If there is one tile of columns at the most, and one zero point for all columns of the weight.
    fn new(terms: &Terms<'a>, scale: &ScalarOrPerColumn<'_>) -> Option<Self> {
        let WeightTerm::Scalar(weight) = terms.weight else { return None };
        let mut columns = [0; TILE_COLUMNS];
        columns.get_mut(..terms.columns.len())?.copy_from_slice(terms.columns);
        Some(Self { columns, scales: copied(scale, terms.columns.len()), weight, row_sums: terms.row_sums })
    }

    /// What is subtracted from the sums of a row.
    ///
    /// # Safety
    /// AVX-512; the row exists.
    #[inline(always)]
    unsafe fn row_term(&self, row: usize) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_set1_epi32(self.weight.wrapping_mul(*self.row_sums.get_unchecked(row))) }
    }

    /// Some sums of panel `j`, scaled.
    ///
    /// # Safety
    /// AVX-512; j < 4.
    #[inline(always)]
    unsafe fn scaled(&self, sum: __m512i, row_term: __m512i, j: usize) -> __m512 {
        // SAFETY: arrays of 64 hold four vectors.
        unsafe {
            let column = _mm512_loadu_si512(self.columns.as_ptr().add(j * PANEL).cast());
            let sum = _mm512_add_epi32(sum, _mm512_sub_epi32(column, row_term));
            _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(self.scales.as_ptr().add(j * PANEL)))
        }
    }
}

fn copied(values: &ScalarOrPerColumn<'_>, columns: usize) -> [f32; TILE_COLUMNS] {
    let mut copy = [0.0; TILE_COLUMNS];
    values.copy_to(0, &mut copy[..columns]);
    copy
}

/// Columns of float outputs.
pub(in crate::arch::x86_64) struct DequantizedColumns<'a> {
    scaling: Scaling<'a>,
    out: *mut f32,
    stride: usize,
    addends: Option<[f32; TILE_COLUMNS]>,
    /// For all rows, in lines as those of the output.
    elementwise: Elementwise<'a>,
}

impl<'a> DequantizedColumns<'a> {
    /// If the block is of this kind, and a whole tile wide.
    ///
    /// # Panics
    /// If the output or the terms have other rows or columns than the block.
    pub fn new<'b: 'a>(columns: usize, m: usize, terms: &Terms<'a>, out: &mut Output<'b>) -> Option<Self> {
        if columns == TILE_COLUMNS && terms.columns.len() == columns { Self::narrow(m, terms, out) } else { None }
    }

    /// If the block is of this kind, and not wider than a tile.
    ///
    /// # Panics
    /// If the output or the terms have other rows or columns than the block.
    pub fn narrow<'b: 'a>(m: usize, terms: &Terms<'a>, out: &mut Output<'b>) -> Option<Self> {
        let Output { destination: Memory::F32(out), epilogue: Epilogue::Dequantize { scale, addend, elementwise } } =
            out
        else {
            return None;
        };
        let (scaling, columns) = (Scaling::new(terms, scale)?, terms.columns.len());
        assert!(out.rows() == m && out.columns() == columns && terms.row_sums.len() == m);
        assert!(elementwise.covers(m, columns, out.stride()));
        let (addends, elementwise) = (addend.as_ref().map(|addend| copied(addend, columns)), *elementwise);
        Some(Self { scaling, out: out.as_mut_ptr(), stride: out.stride(), addends, elementwise })
    }
}

/// Sums become floats: `scaled (+ addend) (· gate) (+ residual)`.
impl Columns for DequantizedColumns<'_> {
    #[inline(always)]
    unsafe fn prefetch<const MR: usize, const NR: usize>(&self, row: usize, part: usize, parts: usize) {
        let count = (MR * NR).div_ceil(parts);
        for line in part * count..((part + 1) * count).min(MR * NR) {
            let at = (row + line / NR) * self.stride + line % NR * PANEL;
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(self.out.wrapping_add(at).cast()) };
            for of in [self.elementwise.gate, self.elementwise.residual].into_iter().flatten() {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(of.as_ptr().wrapping_add(at).cast()) };
            }
        }
    }
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, sums: &[[__m512i; NR]; MR]) {
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: `new` has checked that there is a sum for each row, and that gate and residual cover the output;
            // arrays of 64 hold NR vectors; the caller promises the outputs.
            unsafe {
                let row_term = self.scaling.row_term(row + i);
                let mut values = [_mm512_setzero_ps(); NR];
                for (j, (value, sum)) in values.iter_mut().zip(sums).enumerate() {
                    *value = self.scaling.scaled(*sum, row_term, j);
                    if let Some(addends) = &self.addends {
                        *value = _mm512_add_ps(*value, _mm512_loadu_ps(addends.as_ptr().add(j * PANEL)));
                    }
                }
                let at = (row + i) * self.stride;
                if let Some(gate) = self.elementwise.gate {
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = _mm512_mul_ps(*value, _mm512_loadu_ps(gate.as_ptr().add(at + j * PANEL)));
                    }
                }
                if let Some(residual) = self.elementwise.residual {
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = _mm512_add_ps(*value, _mm512_loadu_ps(residual.as_ptr().add(at + j * PANEL)));
                    }
                }
                for (j, value) in values.iter().enumerate() {
                    _mm512_storeu_ps(self.out.add(at + j * PANEL), *value);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn store_some(&self, row: usize, j: usize, some: __mmask16, sums: __m512i) {
        let at = row * self.stride + j * PANEL;
        // SAFETY: as in `store`; the mask keeps the accesses inside of the row.
        unsafe {
            let mut value = self.scaling.scaled(sums, self.scaling.row_term(row), j);
            if let Some(addends) = &self.addends {
                value = _mm512_add_ps(value, _mm512_loadu_ps(addends.as_ptr().add(j * PANEL)));
            }
            if let Some(gate) = self.elementwise.gate {
                value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(some, gate.as_ptr().add(at)));
            }
            if let Some(residual) = self.elementwise.residual {
                value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(some, residual.as_ptr().add(at)));
            }
            _mm512_mask_storeu_ps(self.out.add(at), some, value);
        }
    }
}

/// Columns of outputs that are bytes.
pub(in crate::arch::x86_64) struct RequantizedColumns<'a> {
    scaling: Scaling<'a>,
    out: *mut u8,
    stride: usize,
    /// Of the output type, and what they are less the zero point.
    zero_point: i32,
    lowest: f32,
    highest: f32,
}

impl<'a> RequantizedColumns<'a> {
    /// If the block is of this kind, and a whole tile wide.
    ///
    /// # Panics
    /// If the output or the terms have other rows or columns than the block.
    pub fn new(columns: usize, m: usize, terms: &Terms<'a>, out: &mut Output<'_>) -> Option<Self> {
        if columns == TILE_COLUMNS && terms.columns.len() == columns { Self::narrow(m, terms, out) } else { None }
    }

    /// If the block is of this kind, and not wider than a tile.
    ///
    /// # Panics
    /// If the output or the terms have other rows or columns than the block.
    pub fn narrow(m: usize, terms: &Terms<'a>, out: &mut Output<'_>) -> Option<Self> {
        let Epilogue::Requantize { scale, zero_point } = &out.epilogue else { return None };
        let (out, stride, shape, lowest) = match &mut out.destination {
            Memory::U8(out) => (out.as_mut_ptr(), out.stride(), (out.rows(), out.columns()), 0),
            Memory::I8(out) => (out.as_mut_ptr().cast(), out.stride(), (out.rows(), out.columns()), -128),
            _ => return None,
        };
        let zero_point = *zero_point;
        let scaling = Scaling::new(terms, scale)?;
        assert!(shape == (m, terms.columns.len()) && terms.row_sums.len() == m);
        let (lowest, highest) = ((lowest - zero_point) as f32, (lowest + 255 - zero_point) as f32);
        Some(Self { scaling, out, stride, zero_point, lowest, highest })
    }
}

/// Sums become bytes: scaled, clamped, rounded half to even, and the zero point added. NaN becomes the lowest value.
impl Columns for RequantizedColumns<'_> {
    #[inline(always)]
    unsafe fn prefetch<const MR: usize, const NR: usize>(&self, row: usize, part: usize, parts: usize) {
        // A row is a line, or parts of two.
        let count = MR.div_ceil(parts);
        for i in part * count..((part + 1) * count).min(MR) {
            let at = self.out.wrapping_add((row + i) * self.stride);
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
        }
    }
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, sums: &[[__m512i; NR]; MR]) {
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: `new` has checked that there is a sum for each row; the caller promises the outputs, and the features.
            unsafe {
                let row_term = self.scaling.row_term(row + i);
                for (j, sum) in sums.iter().enumerate() {
                    let bytes = _mm512_cvtepi32_epi8(self.requantized(*sum, row_term, j));
                    _mm_storeu_si128(self.out.add((row + i) * self.stride + j * PANEL).cast(), bytes);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn store_some(&self, row: usize, j: usize, some: __mmask16, sums: __m512i) {
        // SAFETY: as in `store`; the mask keeps the access inside of the row.
        unsafe {
            let values = self.requantized(sums, self.scaling.row_term(row), j);
            _mm512_mask_cvtepi32_storeu_epi8(self.out.add(row * self.stride + j * PANEL).cast(), some, values);
        }
    }
}

impl RequantizedColumns<'_> {
    /// Some sums of panel `j`, as values of the output.
    ///
    /// # Safety
    /// AVX-512; j < 4.
    #[inline(always)]
    unsafe fn requantized(&self, sums: __m512i, row_term: __m512i, j: usize) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe {
            let value = self.scaling.scaled(sums, row_term, j);
            // Of a NaN and a number, the instruction gives the second operand.
            let value = _mm512_max_ps(value, _mm512_set1_ps(self.lowest));
            let value = _mm512_min_ps(value, _mm512_set1_ps(self.highest));
            _mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(self.zero_point))
        }
    }
}
