//! From the sums of a register tile to outputs: integers, floats, or bytes that are requantised.
//!
//! All begin with `sum + column − weight · row sum`, and the last two go on with `fp32(…) · scale`; every step is an operation of
//! its own.

use super::operands::Destination;
use super::vectors::Sums;
use crate::arch::output::{Output, ScalarOrPerColumn};
use crate::arch::rows::Terms;
use crate::arch::x86_64::results::{Corrections, Dequantized, Kind, Requantized, Summed};
use crate::geometry::PANEL;
use std::arch::x86_64::*;

/// Lanes of a vector of floats.
const EIGHT: usize = PANEL / 2;

/// What becomes of the corrected sums of half a panel, or of the first lanes of it.
pub(super) trait Results {
    /// What it takes for some columns, whatever the row.
    type PerColumn: Copy;
    /// That of the columns from `column` on.
    ///
    /// # Safety
    /// AVX2, here and below; the output has those columns that are `lanes`.
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> Self::PerColumn;
    /// Writes what is made of the sums of a row.
    ///
    /// # Safety
    /// The output has the row, and those columns that are `lanes` from `column` on.
    unsafe fn write<L: Lanes>(&self, row: usize, column: usize, sums: __m256i, by: Self::PerColumn, lanes: L);
    /// Writes what is made of the sums of a row, of a whole panel.
    ///
    /// # Safety
    /// The output has the row, and the panel's columns from `column` on.
    #[inline(always)]
    unsafe fn write_panel(&self, row: usize, column: usize, sums: [__m256i; 2], by: &[Self::PerColumn; 2]) {
        // SAFETY: the caller's contract.
        unsafe {
            self.write(row, column, sums[0], by[0], All);
            self.write(row, column + EIGHT, sums[1], by[1], All);
        }
    }
    /// The same of two panels beside each other.
    ///
    /// # Safety
    /// As there, of both.
    #[inline(always)]
    unsafe fn write_panels(
        &self,
        row: usize,
        column: usize,
        sums: [[__m256i; 2]; 2],
        by: &[[Self::PerColumn; 2]; 2],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            self.write_panel(row, column, sums[0], &by[0]);
            self.write_panel(row, column + PANEL, sums[1], &by[1]);
        }
    }
}

/// A block of outputs, with what makes them of its sums.
pub(super) struct Outputs<'a, R> {
    corrections: Corrections<'a>,
    results: R,
}

impl<'a, R: Kind<'a>> Outputs<'a, R> {
    /// If the outputs are of this kind, and there is one zero point for all columns of the weight.
    ///
    /// # Panics
    /// If the terms, scales or anything else are of other rows or columns than the output.
    pub fn new(terms: &'a Terms<'_>, out: &'a mut Output<'_>) -> Option<Self> {
        let (corrections, results) = R::corrected(terms, out)?;
        Some(Self { corrections, results })
    }
}

impl<R: Results> Outputs<'_, R> {
    /// What the sums of half a panel are corrected by, whatever the row, and what makes outputs of them.
    ///
    /// # Safety
    /// As for [`Results::per_column`].
    #[inline(always)]
    unsafe fn columns<L: Lanes>(&self, column: usize, lanes: L) -> (__m256i, R::PerColumn) {
        // SAFETY: columns are as many as the output's.
        unsafe {
            let terms = lanes.load(self.corrections.columns.as_ptr().cast::<f32>().add(column));
            (_mm256_castps_si256(terms), self.results.per_column(column, lanes))
        }
    }

    /// The same of both halves of a panel.
    ///
    /// # Safety
    /// As there, of all lanes.
    #[inline(always)]
    unsafe fn halves(&self, column: usize) -> ([__m256i; 2], [R::PerColumn; 2]) {
        // SAFETY: the caller's contract.
        let (low, high) = unsafe { (self.columns(column, All), self.columns(column + EIGHT, All)) };
        ([low.0, high.0], [low.1, high.1])
    }

    /// Makes outputs of the sums of a tile, panel by panel; `ROWS`: they are corrected by row as well.
    ///
    /// # Safety
    /// As for [`Destination::store`].
    #[inline(always)]
    unsafe fn tile<const MR: usize, const NR: usize, const ROWS: bool>(
        &self,
        (row, panel): (usize, usize),
        sums: &Sums<MR, NR>,
        row_terms: &[__m256i; MR],
    ) {
        let mut p = 0;
        // SAFETY: the caller's contract; columns in the padding are left out.
        unsafe {
            while p < NR {
                let column = (panel + p) * PANEL;
                let count = self.corrections.columns.len().saturating_sub(column);
                if count >= 2 * PANEL && p + 1 < NR {
                    self.panels::<MR, NR, ROWS>((row, column), (sums, p), row_terms);
                    p += 2;
                    continue;
                }
                if count >= PANEL {
                    self.panel::<MR, NR, ROWS>((row, column), (sums, p), row_terms);
                } else {
                    // Of copies, for what is handed on by reference could not stay in registers before.
                    let mut copy = ([[_mm256_setzero_si256(); 2]; MR], [_mm256_setzero_si256(); MR]);
                    for i in 0..MR {
                        (copy.0[i], copy.1[i]) = (sums[i][p], row_terms[i]);
                    }
                    self.last_panel::<MR, ROWS>((row, column), &copy.0, &copy.1);
                }
                p += 1;
            }
        }
    }

    /// As [`Self::tile`], of the panels `p` and `p + 1` alone, from `column` on, all of whose columns the output has.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn panels<const MR: usize, const NR: usize, const ROWS: bool>(
        &self,
        (row, column): (usize, usize),
        (sums, p): (&Sums<MR, NR>, usize),
        row_terms: &[__m256i; MR],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let [first, second] = [self.halves(column), self.halves(column + PANEL)];
            let by = [first.1, second.1];
            for (i, (sums, row_term)) in sums.iter().zip(row_terms).enumerate() {
                let first = corrected::<ROWS>(sums[p], first.0, *row_term);
                let second = corrected::<ROWS>(sums[p + 1], second.0, *row_term);
                self.results.write_panels(row + i, column, [first, second], &by);
            }
        }
    }

    /// As [`Self::panels`], of one panel.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn panel<const MR: usize, const NR: usize, const ROWS: bool>(
        &self,
        (row, column): (usize, usize),
        (sums, p): (&Sums<MR, NR>, usize),
        row_terms: &[__m256i; MR],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let (terms, by) = self.halves(column);
            for (i, (sums, row_term)) in sums.iter().zip(row_terms).enumerate() {
                let sums = corrected::<ROWS>(sums[p], terms, *row_term);
                self.results.write_panel(row + i, column, sums, &by);
            }
        }
    }

    /// As [`Self::panel`], where the output ends inside of the panel.
    ///
    /// # Safety
    /// As there.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "avx2")]
    unsafe fn last_panel<const MR: usize, const ROWS: bool>(
        &self,
        (row, column): (usize, usize),
        sums: &[[__m256i; 2]; MR],
        row_terms: &[__m256i; MR],
    ) {
        let count = self.corrections.columns.len().saturating_sub(column);
        // SAFETY: the caller's contract; columns in the padding are left out.
        unsafe {
            for half in 0..count.div_ceil(EIGHT) {
                let column = column + half * EIGHT;
                let lanes = First::new((count - half * EIGHT).min(EIGHT));
                let (columns, by) = self.columns(column, lanes);
                for (i, (sums, row_term)) in sums.iter().zip(row_terms).enumerate() {
                    let [sums, _] = corrected::<ROWS>([sums[half]; 2], [columns; 2], *row_term);
                    self.results.write(row + i, column, sums, by, lanes);
                }
            }
        }
    }
}

/// The sums with what is added for their columns and, with `ROWS`, taken off for their row.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn corrected<const ROWS: bool>(
    mut sums: [__m256i; 2],
    columns: [__m256i; 2],
    row_term: __m256i,
) -> [__m256i; 2] {
    for (sums, columns) in sums.iter_mut().zip(columns) {
        // SAFETY: the caller's contract.
        unsafe {
            *sums = _mm256_add_epi32(*sums, columns);
            if ROWS {
                *sums = _mm256_sub_epi32(*sums, row_term);
            }
        }
    }
    sums
}

impl<R: Results> Destination for Outputs<'_, R> {
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>) {
        // SAFETY: the caller's contract, and there is a sum for each row.
        unsafe {
            let mut row_terms = [_mm256_setzero_si256(); MR];
            if self.corrections.weight == 0 {
                self.tile::<MR, NR, false>((row, panel), sums, &row_terms);
                return;
            }
            for (i, row_term) in row_terms.iter_mut().enumerate() {
                *row_term = _mm256_set1_epi32(self.corrections.row_term(row + i));
            }
            self.tile::<MR, NR, true>((row, panel), sums, &row_terms);
        }
    }
}

impl Results for Summed {
    type PerColumn = ();

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, _: usize, _: L) {}
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, row: usize, column: usize, sums: __m256i, (): (), lanes: L) {
        // SAFETY: the caller's contract.
        unsafe { lanes.store(self.out.add(row * self.stride + column).cast(), _mm256_castsi256_ps(sums)) }
    }
}

impl Results for Dequantized<'_> {
    /// Scale and addend.
    type PerColumn = (__m256, Option<__m256>);

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> Self::PerColumn {
        // SAFETY: the caller's contract; `Kind::of` has checked that there are as many as columns.
        unsafe {
            #[expect(clippy::manual_map, reason = "a closure that `map` calls has not the features of AVX2")]
            let addend = match &self.addend {
                Some(addend) => Some(lanes.of(addend, column)),
                None => None,
            };
            (lanes.of(&self.scale, column), addend)
        }
    }
    #[inline(always)]
    unsafe fn write<L: Lanes>(
        &self,
        row: usize,
        column: usize,
        sums: __m256i,
        (scale, addend): Self::PerColumn,
        lanes: L,
    ) {
        let at = row * self.stride + column;
        // SAFETY: the caller's contract; `Kind::of` has checked that gate and residual cover the output.
        unsafe {
            let mut values = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
            if let Some(addend) = addend {
                values = _mm256_add_ps(values, addend);
            }
            if let Some(gate) = self.elementwise.gate {
                values = _mm256_mul_ps(values, lanes.load(gate.as_ptr().add(at)));
            }
            if let Some(residual) = self.elementwise.residual {
                values = _mm256_add_ps(values, lanes.load(residual.as_ptr().add(at)));
            }
            lanes.store(self.out.add(at), values);
        }
    }
}

impl Results for Requantized<'_> {
    /// The scale.
    type PerColumn = __m256;

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> __m256 {
        // SAFETY: the caller's contract; `Kind::of` has checked that there are as many as columns.
        unsafe { lanes.of(&self.scale, column) }
    }
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, row: usize, column: usize, sums: __m256i, scale: __m256, lanes: L) {
        // SAFETY: the caller's contract.
        unsafe {
            let words = words(self, [sums; 2], &[scale; 2]);
            let bytes = bytes(self, words, words);
            let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            lanes.store_bytes(self.out.add(row * self.stride + column), _mm_unpacklo_epi32(low, high));
        }
    }

    #[inline(always)]
    unsafe fn write_panel(&self, row: usize, column: usize, sums: [__m256i; 2], scale: &[__m256; 2]) {
        // SAFETY: the caller's contract.
        unsafe {
            let words = words(self, sums, scale);
            let bytes = bytes(self, words, words);
            let (even, odd) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            _mm_storeu_si128(self.out.add(row * self.stride + column).cast(), _mm_unpacklo_epi32(even, odd));
        }
    }

    #[inline(always)]
    unsafe fn write_panels(&self, row: usize, column: usize, sums: [[__m256i; 2]; 2], scale: &[[__m256; 2]; 2]) {
        // SAFETY: the caller's contract.
        unsafe {
            let bytes = bytes(self, words(self, sums[0], &scale[0]), words(self, sums[1], &scale[1]));
            // Each half of the register has the fours of bytes of every other four columns.
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(self.out.add(row * self.stride + column).cast(), bytes);
        }
    }
}

/// Scaled and rounded; too large ones are what the output's upper limit is less the zero point, NaN is the lowest number.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn rounded(by: &Requantized<'_>, sums: __m256i, scale: __m256) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let values = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
        // Of a NaN and a number, the instruction gives the second operand. What is too small for 32 bits is rounded to the
        // lowest number, as NaN is, so that limits on this side are those of saturating instructions.
        _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(by.highest), values))
    }
}

/// Those of a panel, with the zero point: columns 0 to 3, 8 to 11 and 4 to 7, 12 to 15.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn words(by: &Requantized<'_>, sums: [__m256i; 2], scale: &[__m256; 2]) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let words = _mm256_packs_epi32(rounded(by, sums[0], scale[0]), rounded(by, sums[1], scale[1]));
        _mm256_adds_epi16(words, _mm256_set1_epi16(by.zero_point as i16))
    }
}

/// Bytes of the output's type: of each half of the registers, the first's and then the second's.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn bytes(by: &Requantized<'_>, first: __m256i, second: __m256i) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe { if by.signed { _mm256_packs_epi16(first, second) } else { _mm256_packus_epi16(first, second) } }
}

/// Lanes of a vector that are columns of the output.
pub(super) trait Lanes: Copy {
    /// # Safety
    /// AVX2, here and below; so many floats can be read.
    unsafe fn load(self, from: *const f32) -> __m256;
    /// # Safety
    /// So many floats can be written.
    unsafe fn store(self, to: *mut f32, values: __m256);
    /// # Safety
    /// So many bytes can be written.
    unsafe fn store_bytes(self, to: *mut u8, bytes: __m128i);
    /// What there is for the columns from `column` on.
    ///
    /// # Safety
    /// It has those columns.
    #[inline(always)]
    unsafe fn of(self, values: &ScalarOrPerColumn<'_>, column: usize) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe {
            match values {
                ScalarOrPerColumn::Scalar(value) => _mm256_set1_ps(*value),
                ScalarOrPerColumn::PerColumn(values) => self.load(values.as_ptr().add(column)),
            }
        }
    }
}

/// All eight.
#[derive(Clone, Copy)]
struct All;

impl Lanes for All {
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's contract, here and below.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, values: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, values) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, bytes: __m128i) {
        // SAFETY: as above.
        unsafe { _mm_storel_epi64(to.cast(), bytes) }
    }
}

/// The first ones, where the last columns of the output are fewer.
#[derive(Clone, Copy)]
struct First {
    count: usize,
    mask: __m256i,
}

impl First {
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn new(count: usize) -> Self {
        // SAFETY: the caller's contract.
        let mask = unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
        };
        Self { count, mask }
    }
}

impl Lanes for First {
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's contract, here and below; the mask keeps accesses inside of it.
        unsafe { _mm256_maskload_ps(from, self.mask) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, values: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_maskstore_ps(to, self.mask, values) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, bytes: __m128i) {
        let mut eight = [0u8; EIGHT];
        // SAFETY: as above.
        unsafe {
            _mm_storel_epi64(eight.as_mut_ptr().cast(), bytes);
            to.copy_from_nonoverlapping(eight.as_ptr(), self.count);
        }
    }
}
