//! From the sums of a register tile to outputs: integers, floats, or bytes that are requantised.
//!
//! All begin with `sum + column − weight · row sum`, and the last two go on with `fp32(…) · scale`; every step is an operation of
//! its own.

use super::block::Destination;
use crate::arch::output::{Output, ScalarOrPerColumn};
use crate::arch::rows::Terms;
use crate::arch::x86_64::results::{Corrections, Dequantized, Kind, Requantized, Summed};
use crate::geometry::PANEL;
use std::arch::x86_64::*;
use std::ops::Range;

/// What becomes of the corrected sums of a panel, or of the first lanes of it.
pub(in crate::arch::x86_64) trait Results {
    /// What it takes for some columns, whatever the row.
    type PerColumn: Copy;
    /// That of the columns from `column` on.
    ///
    /// # Safety
    /// AVX-512, here and below; the output has those columns that are `lanes`.
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> Self::PerColumn;
    /// Writes what is made of the sums of a row, from element `at` of the output on.
    ///
    /// # Safety
    /// The output has the row, and those columns that are `lanes` from there on.
    unsafe fn write<L: Lanes>(&self, at: usize, sums: __m512i, by: Self::PerColumn, lanes: L);
    /// Writes what is made of the sums of a row, of four whole panels beside each other.
    ///
    /// # Safety
    /// As there, of all.
    #[inline(always)]
    unsafe fn write_four(&self, at: usize, sums: [__m512i; 4], by: [Self::PerColumn; 4]) {
        for (j, (sums, by)) in sums.into_iter().zip(by).enumerate() {
            // SAFETY: the caller's contract.
            unsafe { self.write(at + j * PANEL, sums, by, All) };
        }
    }
    /// Elements of the output from row to row.
    fn stride(&self) -> usize;
    /// Fetches the line in which element `at` of the output is, for writing.
    fn prefetch(&self, at: usize);
    /// Panels whose results of a row are in a line.
    const PANELS_OF_A_LINE: usize;
}

/// A block of outputs, with what makes them of its sums.
pub(in crate::arch::x86_64) struct Outputs<'a, R> {
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
    /// Makes outputs of the sums of panel `j` of a tile, which begins at `column`; `ROWS`: they are corrected by row as well.
    ///
    /// # Safety
    /// AVX-512; the output has the rows, and those columns that are `lanes`.
    #[inline(always)]
    unsafe fn panel<L: Lanes, const MR: usize, const NR: usize, const ROWS: bool>(
        &self,
        (row, column): (usize, usize),
        (sums, j): (&[[__m512i; NR]; MR], usize),
        row_terms: &[i32; MR],
        lanes: L,
    ) {
        // SAFETY: the caller's contract; columns are as many as the output's.
        unsafe {
            let terms = lanes.load_words(self.corrections.columns.as_ptr().add(column));
            let by = self.results.per_column(column, lanes);
            let mut at = row * self.results.stride() + column;
            for (sums, row_term) in sums.iter().zip(row_terms) {
                self.results.write(at, corrected::<ROWS>(sums[j], terms, *row_term), by, lanes);
                at += self.results.stride();
            }
        }
    }

    /// As [`Self::panel`], of four whole panels beside each other, from panel `j` on.
    ///
    /// # Safety
    /// As there, of all.
    #[inline(always)]
    unsafe fn four_panels<const MR: usize, const NR: usize, const ROWS: bool>(
        &self,
        (row, column): (usize, usize),
        (sums, j): (&[[__m512i; NR]; MR], usize),
        row_terms: &[i32; MR],
    ) {
        // SAFETY: the caller's contract; columns are as many as the output's.
        unsafe {
            let terms = four_at(self.corrections.columns.as_ptr().add(column));
            // Closures that the standard library calls would not be inlined here.
            let by = [
                self.results.per_column(column, All),
                self.results.per_column(column + PANEL, All),
                self.results.per_column(column + 2 * PANEL, All),
                self.results.per_column(column + 3 * PANEL, All),
            ];
            let mut at = row * self.results.stride() + column;
            for (sums, row_term) in sums.iter().zip(row_terms) {
                let sums = [
                    corrected::<ROWS>(sums[j], terms[0], *row_term),
                    corrected::<ROWS>(sums[j + 1], terms[1], *row_term),
                    corrected::<ROWS>(sums[j + 2], terms[2], *row_term),
                    corrected::<ROWS>(sums[j + 3], terms[3], *row_term),
                ];
                self.results.write_four(at, sums, by);
                at += self.results.stride();
            }
        }
    }

    /// Makes outputs of the sums of a tile.
    ///
    /// # Safety
    /// As for [`Destination::store`].
    #[inline(always)]
    unsafe fn tile<const MR: usize, const NR: usize, const ROWS: bool>(
        &self,
        (row, panel): (usize, usize),
        sums: &[[__m512i; NR]; MR],
        row_terms: &[i32; MR],
    ) {
        let mut j = 0;
        while j < NR {
            let column = (panel + j) * PANEL;
            let (at, left) = ((row, column), self.corrections.columns.len().saturating_sub(column));
            // SAFETY: the caller's contract; columns in the padding are left out.
            unsafe {
                if NR - j >= 4 && left >= 4 * PANEL {
                    self.four_panels::<MR, NR, ROWS>(at, (sums, j), row_terms);
                    j += 4;
                    continue;
                }
                if left >= PANEL {
                    self.panel::<_, MR, NR, ROWS>(at, (sums, j), row_terms, All);
                } else if left > 0 {
                    // Of copies, for what is handed on by reference could not stay in registers before.
                    let (mut copy, terms) = ([[_mm512_setzero_si512()]; MR], *row_terms);
                    for (copy, sums) in copy.iter_mut().zip(sums) {
                        copy[0] = sums[j];
                    }
                    self.last_panel::<MR, ROWS>(at, &copy, &terms);
                }
            }
            j += 1;
        }
    }

    /// As [`Self::panel`], where the output ends inside of the panel.
    ///
    /// # Safety
    /// As there; there is such a column.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2")]
    unsafe fn last_panel<const MR: usize, const ROWS: bool>(
        &self,
        at: (usize, usize),
        sums: &[[__m512i; 1]; MR],
        row_terms: &[i32; MR],
    ) {
        let lanes = First::new(self.corrections.columns.len() - at.1);
        // SAFETY: the caller's contract; columns in the padding are left out.
        unsafe { self.panel::<_, MR, 1, ROWS>(at, (sums, 0), row_terms, lanes) };
    }

    /// Makes outputs of some rows whose sums are in memory, `stride` apart.
    ///
    /// # Safety
    /// AVX-512; the output has those rows, and there are sums for all columns of them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2")]
    pub unsafe fn rows(&self, rows: Range<usize>, sums: *const i32, stride: usize) {
        let (fours, whole) = (
            self.corrections.columns.len() / (4 * PANEL) * (4 * PANEL),
            self.corrections.columns.len() / PANEL * PANEL,
        );
        for (i, row) in rows.enumerate() {
            // SAFETY: the caller's contract; the mask keeps the last access inside of the row's sums.
            unsafe {
                let (sums, row_term) = (sums.add(i * stride), [self.corrections.row_term(row)]);
                for column in (0..fours).step_by(4 * PANEL) {
                    let sums = [four_at(sums.add(column))];
                    self.four_panels::<1, 4, true>((row, column), (&sums, 0), &row_term);
                }
                for column in (fours..whole).step_by(PANEL) {
                    let sums = [[All.load_words(sums.add(column))]];
                    self.panel::<_, 1, 1, true>((row, column), (&sums, 0), &row_term, All);
                }
                if whole < self.corrections.columns.len() {
                    let lanes = First::new(self.corrections.columns.len() - whole);
                    let sums = [[lanes.load_words(sums.add(whole))]];
                    self.panel::<_, 1, 1, true>((row, whole), (&sums, 0), &row_term, lanes);
                }
            }
        }
    }
}

/// Four panels' numbers.
///
/// # Safety
/// AVX-512; there are so many.
#[inline(always)]
unsafe fn four_at(from: *const i32) -> [__m512i; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        [
            All.load_words(from),
            All.load_words(from.add(PANEL)),
            All.load_words(from.add(2 * PANEL)),
            All.load_words(from.add(3 * PANEL)),
        ]
    }
}

/// The sums with what is added for their columns and, with `ROWS`, taken off for their row.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn corrected<const ROWS: bool>(sums: __m512i, terms: __m512i, row_term: i32) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        let sums = _mm512_add_epi32(sums, terms);
        if ROWS { _mm512_sub_epi32(sums, _mm512_set1_epi32(row_term)) } else { sums }
    }
}

impl<R: Results> Destination for Outputs<'_, R> {
    #[inline(always)]
    unsafe fn prefetch<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, part: usize, parts: usize) {
        let of_a_row = NR.div_ceil(R::PANELS_OF_A_LINE);
        let count = (MR * of_a_row).div_ceil(parts);
        for line in part * count..((part + 1) * count).min(MR * of_a_row) {
            let (row, column) = (row + line / of_a_row, (panel + line % of_a_row * R::PANELS_OF_A_LINE) * PANEL);
            self.results.prefetch(row * self.results.stride() + column);
        }
    }
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &[[__m512i; NR]; MR]) {
        let mut row_terms = [0; MR];
        // SAFETY: the caller's contract, and there is a sum for each row.
        unsafe {
            if self.corrections.weight == 0 {
                return self.tile::<MR, NR, false>((row, panel), sums, &row_terms);
            }
            for (i, row_term) in row_terms.iter_mut().enumerate() {
                *row_term = self.corrections.row_term(row + i);
            }
            self.tile::<MR, NR, true>((row, panel), sums, &row_terms);
        }
    }
}

impl Results for Summed {
    type PerColumn = ();
    const PANELS_OF_A_LINE: usize = 1;

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, _: usize, _: L) {}
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, at: usize, sums: __m512i, (): (), lanes: L) {
        // SAFETY: the caller's contract.
        unsafe { lanes.store_words(self.out.add(at), sums) }
    }
    #[inline(always)]
    fn stride(&self) -> usize {
        self.stride
    }
    #[inline(always)]
    fn prefetch(&self, at: usize) {
        for_writing(self.out.wrapping_add(at).cast());
    }
}

impl Results for Dequantized<'_> {
    /// Scale and addend.
    type PerColumn = (__m512, Option<__m512>);
    const PANELS_OF_A_LINE: usize = 1;

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> Self::PerColumn {
        // SAFETY: the caller's contract; `Kind::of` has checked that there are as many as columns.
        unsafe {
            #[expect(clippy::manual_map, reason = "a closure that `map` calls has not the features of AVX-512")]
            let addend = match &self.addend {
                Some(addend) => Some(lanes.of(addend, column)),
                None => None,
            };
            (lanes.of(&self.scale, column), addend)
        }
    }
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, at: usize, sums: __m512i, (scale, addend): Self::PerColumn, lanes: L) {
        // SAFETY: the caller's contract; `Kind::of` has checked that gate and residual cover the output.
        unsafe {
            let mut values = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
            if let Some(addend) = addend {
                values = _mm512_add_ps(values, addend);
            }
            if let Some(gate) = self.elementwise.gate {
                values = _mm512_mul_ps(values, lanes.load(gate.as_ptr().add(at)));
            }
            if let Some(residual) = self.elementwise.residual {
                values = _mm512_add_ps(values, lanes.load(residual.as_ptr().add(at)));
            }
            lanes.store_words(self.out.add(at).cast(), _mm512_castps_si512(values));
        }
    }
    #[inline(always)]
    fn stride(&self) -> usize {
        self.stride
    }
    #[inline(always)]
    fn prefetch(&self, at: usize) {
        for_writing(self.out.wrapping_add(at).cast());
        for of in [self.elementwise.gate, self.elementwise.residual].into_iter().flatten() {
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(of.as_ptr().wrapping_add(at).cast()) };
        }
    }
}

/// Scaled and rounded; too large ones are what the output's upper limit is less the zero point, NaN is the lowest number.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn rounded(by: &Requantized<'_>, sums: __m512i, scale: __m512) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        let values = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
        // Of a NaN and a number, the instruction gives the second operand. What is too small for 32 bits is rounded to the
        // lowest number, as NaN is, so that limits on this side are those of saturating instructions.
        _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(by.highest), values))
    }
}

/// 32 numbers with the zero point, as words: of each quarter of the registers, the first's and then the second's.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn words(by: &Requantized<'_>, first: __m512i, second: __m512i) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { _mm512_adds_epi16(_mm512_packs_epi32(first, second), _mm512_set1_epi16(by.zero_point as i16)) }
}

/// Bytes of the output's type, in the same order.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn bytes(by: &Requantized<'_>, first: __m512i, second: __m512i) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { if by.signed { _mm512_packs_epi16(first, second) } else { _mm512_packus_epi16(first, second) } }
}

impl Results for Requantized<'_> {
    /// The scale.
    type PerColumn = __m512;
    const PANELS_OF_A_LINE: usize = 4;

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> __m512 {
        // SAFETY: the caller's contract; `Kind::of` has checked that there are as many as columns.
        unsafe { lanes.of(&self.scale, column) }
    }
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, at: usize, sums: __m512i, scale: __m512, lanes: L) {
        // SAFETY: the caller's contract.
        unsafe {
            let rounded = rounded(self, sums, scale);
            let words = words(self, rounded, rounded);
            let bytes = in_order(bytes(self, words, words));
            lanes.store_bytes(self.out.add(at), _mm512_castsi512_si128(bytes));
        }
    }
    #[inline(always)]
    unsafe fn write_four(&self, at: usize, sums: [__m512i; 4], scale: [__m512; 4]) {
        // SAFETY: the caller's contract.
        unsafe {
            let low = words(self, rounded(self, sums[0], scale[0]), rounded(self, sums[1], scale[1]));
            let high = words(self, rounded(self, sums[2], scale[2]), rounded(self, sums[3], scale[3]));
            let bytes = in_order(bytes(self, low, high));
            _mm512_storeu_si512(self.out.add(at).cast(), bytes);
        }
    }
    #[inline(always)]
    fn stride(&self) -> usize {
        self.stride
    }
    #[inline(always)]
    fn prefetch(&self, at: usize) {
        for_writing(self.out.wrapping_add(at));
    }
}

/// Bytes of four vectors, one behind the other, of which packing has left every four in a quarter of its own.
///
/// # Safety
/// AVX-512.
#[inline(always)]
pub(super) unsafe fn in_order(bytes: __m512i) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes)
    }
}

/// Fetches a line that will be written.
#[inline(always)]
fn for_writing(line: *const u8) {
    // SAFETY: a hint, which accepts any address.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) };
}

/// Lanes of a vector that are columns of the output.
pub(in crate::arch::x86_64) trait Lanes: Copy {
    /// # Safety
    /// AVX-512, here and below; so many can be read.
    unsafe fn load_words(self, from: *const i32) -> __m512i;
    /// # Safety
    /// So many can be written.
    unsafe fn store_words(self, to: *mut i32, values: __m512i);
    /// # Safety
    /// So many bytes can be written.
    unsafe fn store_bytes(self, to: *mut u8, bytes: __m128i);
    /// # Safety
    /// So many floats can be read.
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe { _mm512_castsi512_ps(self.load_words(from.cast())) }
    }
    /// What there is for the columns from `column` on.
    ///
    /// # Safety
    /// It has those columns.
    #[inline(always)]
    unsafe fn of(self, values: &ScalarOrPerColumn<'_>, column: usize) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe {
            match values {
                ScalarOrPerColumn::Scalar(value) => _mm512_set1_ps(*value),
                ScalarOrPerColumn::PerColumn(values) => self.load(values.as_ptr().add(column)),
            }
        }
    }
}

/// All of them.
#[derive(Clone, Copy)]
struct All;

impl Lanes for All {
    #[inline(always)]
    unsafe fn load_words(self, from: *const i32) -> __m512i {
        // SAFETY: the caller's contract, here and below.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(self, to: *mut i32, values: __m512i) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.cast(), values) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, bytes: __m128i) {
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(to.cast(), bytes) }
    }
}

/// The first ones, where the last columns of the output are fewer.
#[derive(Clone, Copy)]
struct First(__mmask16);

impl First {
    #[inline]
    #[target_feature(enable = "bmi2")]
    fn new(count: usize) -> Self {
        Self(_bzhi_u32(0xffff, count.min(PANEL) as u32) as __mmask16)
    }
}

impl Lanes for First {
    #[inline(always)]
    unsafe fn load_words(self, from: *const i32) -> __m512i {
        // SAFETY: the caller's contract, here and below; the mask keeps accesses inside of it.
        unsafe { _mm512_maskz_loadu_epi32(self.0, from) }
    }
    #[inline(always)]
    unsafe fn store_words(self, to: *mut i32, values: __m512i) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_epi32(to, self.0, values) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, bytes: __m128i) {
        // SAFETY: as above.
        unsafe { _mm_mask_storeu_epi8(to.cast(), self.0, bytes) }
    }
}
