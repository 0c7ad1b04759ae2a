//! From the sums of a register tile to outputs: integers, floats, or bytes that are requantised.
//!
//! All begin with `sum + column − weight · row sum`, and the last two go on with `fp32(…) · scale`; every step is an operation of
//! its own.

use super::block::Destination;
use crate::arch::output::{Destination as Memory, Elementwise, Epilogue, Output, ScalarOrPerColumn};
use crate::arch::rows::{Terms, WeightTerm};
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
    /// Elements of the output from row to row.
    fn stride(&self) -> usize;
    /// Fetches the line in which element `at` of the output is, for writing.
    fn prefetch(&self, at: usize);
    /// Panels whose results of a row are in a line.
    const PANELS_OF_A_LINE: usize;
}

/// A block of outputs, with what makes them of its sums.
pub(in crate::arch::x86_64) struct Outputs<'a, R> {
    /// What does not depend on the row.
    columns: &'a [i32],
    /// What the kernels' weights exceed the true ones by.
    weight: i32,
    row_sums: &'a [i32],
    results: R,
}

impl<'a, R: Results> Outputs<'a, R> {
    /// If there is one zero point for all columns of the weight.
    ///
    /// # Panics
    /// If the terms are of other rows or columns than the output, of `shape`.
    fn new(shape: (usize, usize), terms: &'a Terms<'_>, results: R) -> Option<Self> {
        let WeightTerm::Scalar(weight) = terms.weight else { return None };
        assert!(shape == (terms.row_sums.len(), terms.columns.len()));
        Some(Self { columns: terms.columns, weight, row_sums: terms.row_sums, results })
    }

    /// What is taken off the sums of a row.
    ///
    /// # Safety
    /// The row exists.
    #[inline(always)]
    unsafe fn row_term(&self, row: usize) -> i32 {
        // SAFETY: the caller's contract; there is a sum for each row.
        unsafe { self.weight.wrapping_mul(*self.row_sums.get_unchecked(row)) }
    }

    /// Makes outputs of the sums of panel `j` of a tile, which begins at `column`.
    ///
    /// # Safety
    /// AVX-512; the output has the rows, and those columns that are `lanes`.
    #[inline(always)]
    unsafe fn panel<L: Lanes, const MR: usize, const NR: usize>(
        &self,
        (row, column): (usize, usize),
        (sums, j): (&[[__m512i; NR]; MR], usize),
        row_terms: &[i32; MR],
        lanes: L,
    ) {
        // SAFETY: the caller's contract; columns are as many as the output's.
        unsafe {
            let terms = lanes.load_words(self.columns.as_ptr().add(column));
            let by = self.results.per_column(column, lanes);
            let mut at = row * self.results.stride() + column;
            for (sums, row_term) in sums.iter().zip(row_terms) {
                let sums = _mm512_sub_epi32(_mm512_add_epi32(sums[j], terms), _mm512_set1_epi32(*row_term));
                self.results.write(at, sums, by, lanes);
                at += self.results.stride();
            }
        }
    }

    /// As [`Self::panel`], where the output ends inside of the panel.
    ///
    /// # Safety
    /// As there; there is such a column.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2")]
    unsafe fn last_panel<const MR: usize>(
        &self,
        at: (usize, usize),
        sums: &[[__m512i; 1]; MR],
        row_terms: &[i32; MR],
    ) {
        let lanes = First::new(self.columns.len() - at.1);
        // SAFETY: the caller's contract; columns in the padding are left out.
        unsafe { self.panel(at, (sums, 0), row_terms, lanes) };
    }

    /// Makes outputs of some rows whose sums are in memory, `stride` apart.
    ///
    /// # Safety
    /// AVX-512; the output has those rows, and there are sums for all columns of them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2")]
    pub unsafe fn rows(&self, rows: Range<usize>, sums: *const i32, stride: usize) {
        let whole = self.columns.len() / PANEL * PANEL;
        for (i, row) in rows.enumerate() {
            // SAFETY: the caller's contract; the mask keeps the last access inside of the row's sums.
            unsafe {
                let (sums, row_term) = (sums.add(i * stride), [self.row_term(row)]);
                for column in (0..whole).step_by(PANEL) {
                    let sums = [[All.load_words(sums.add(column))]];
                    self.panel((row, column), (&sums, 0), &row_term, All);
                }
                if whole < self.columns.len() {
                    let lanes = First::new(self.columns.len() - whole);
                    let sums = [[lanes.load_words(sums.add(whole))]];
                    self.panel((row, whole), (&sums, 0), &row_term, lanes);
                }
            }
        }
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
        for (i, row_term) in row_terms.iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            *row_term = unsafe { self.row_term(row + i) };
        }
        for j in 0..NR {
            let column = (panel + j) * PANEL;
            // SAFETY: the caller's contract; columns in the padding are left out.
            unsafe {
                match self.columns.len().saturating_sub(column) {
                    PANEL.. => self.panel((row, column), (sums, j), &row_terms, All),
                    0 => {}
                    _ => {
                        // Of copies, for what is handed on by reference could not stay in registers before.
                        let (mut copy, terms) = ([[_mm512_setzero_si512()]; MR], row_terms);
                        for (copy, sums) in copy.iter_mut().zip(sums) {
                            copy[0] = sums[j];
                        }
                        self.last_panel((row, column), &copy, &terms);
                    }
                }
            }
        }
    }
}

/// Sums are the results.
pub(in crate::arch::x86_64) struct Summed {
    out: *mut i32,
    stride: usize,
}

impl Summed {
    /// If the outputs are of this kind.
    ///
    /// # Panics
    /// If the terms are of other rows or columns than the output.
    pub fn outputs<'a>(terms: &'a Terms<'_>, out: &'a mut Output<'_>) -> Option<Outputs<'a, Self>> {
        let (Memory::I32(to), Epilogue::Sums) = (&mut out.destination, &out.epilogue) else { return None };
        let (shape, stride) = ((to.rows(), to.columns()), to.stride());
        Outputs::new(shape, terms, Self { out: to.as_mut_ptr(), stride })
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

/// Sums become floats: `scaled (+ addend) (· gate) (+ residual)`.
pub(in crate::arch::x86_64) struct Dequantized<'a> {
    out: *mut f32,
    stride: usize,
    scale: ScalarOrPerColumn<'a>,
    addend: Option<ScalarOrPerColumn<'a>>,
    /// For all rows, in lines as those of the output.
    elementwise: Elementwise<'a>,
}

impl<'a> Dequantized<'a> {
    /// If the outputs are of this kind.
    ///
    /// # Panics
    /// If the terms, scales or anything else are of other rows or columns than the output.
    pub fn outputs(terms: &'a Terms<'_>, out: &'a mut Output<'_>) -> Option<Outputs<'a, Self>> {
        let (Memory::F32(to), Epilogue::Dequantize { scale, addend, elementwise }) =
            (&mut out.destination, out.epilogue)
        else {
            return None;
        };
        let (rows, columns, stride) = (to.rows(), to.columns(), to.stride());
        assert!(elementwise.covers(rows, columns, stride));
        assert!([Some(scale), addend].into_iter().flatten().all(|values| fits(values, columns)));
        let results = Self { out: to.as_mut_ptr(), stride, scale, addend, elementwise };
        Outputs::new((rows, columns), terms, results)
    }
}

impl Results for Dequantized<'_> {
    /// Scale and addend.
    type PerColumn = (__m512, Option<__m512>);
    const PANELS_OF_A_LINE: usize = 1;

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> Self::PerColumn {
        // SAFETY: the caller's contract; `outputs` has checked that there are as many as columns.
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
        // SAFETY: the caller's contract; `outputs` has checked that gate and residual cover the output.
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

/// Sums become bytes: scaled, clamped, rounded half to even, and the zero point added. NaN becomes the lowest value.
pub(in crate::arch::x86_64) struct Requantized<'a> {
    out: *mut u8,
    stride: usize,
    scale: ScalarOrPerColumn<'a>,
    /// Of the output type, and what its limits are less the zero point.
    zero_point: i32,
    lowest: f32,
    highest: f32,
}

impl<'a> Requantized<'a> {
    /// If the outputs are of this kind.
    ///
    /// # Panics
    /// If the terms or scales are of other rows or columns than the output.
    pub fn outputs(terms: &'a Terms<'_>, out: &'a mut Output<'_>) -> Option<Outputs<'a, Self>> {
        let Epilogue::Requantize { scale, zero_point } = out.epilogue else { return None };
        let (out, stride, shape, lowest) = match &mut out.destination {
            Memory::U8(out) => (out.as_mut_ptr(), out.stride(), (out.rows(), out.columns()), 0),
            Memory::I8(out) => (out.as_mut_ptr().cast(), out.stride(), (out.rows(), out.columns()), -128),
            _ => return None,
        };
        assert!(fits(scale, shape.1));
        let (lowest, highest) = ((lowest - zero_point) as f32, (lowest + 255 - zero_point) as f32);
        Outputs::new(shape, terms, Self { out, stride, scale, zero_point, lowest, highest })
    }
}

impl Results for Requantized<'_> {
    /// The scale.
    type PerColumn = __m512;
    const PANELS_OF_A_LINE: usize = 4;

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> __m512 {
        // SAFETY: the caller's contract; `outputs` has checked that there are as many as columns.
        unsafe { lanes.of(&self.scale, column) }
    }
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, at: usize, sums: __m512i, scale: __m512, lanes: L) {
        // SAFETY: the caller's contract.
        unsafe {
            let value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
            // Of a NaN and a number, the instruction gives the second operand.
            let value = _mm512_max_ps(value, _mm512_set1_ps(self.lowest));
            let value = _mm512_min_ps(value, _mm512_set1_ps(self.highest));
            let value = _mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(self.zero_point));
            lanes.store_bytes(self.out.add(at), value);
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

/// Fetches a line that will be written.
#[inline(always)]
fn for_writing(line: *const u8) {
    // SAFETY: a hint, which accepts any address.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) };
}

/// Whether there is a value for each column.
fn fits(values: ScalarOrPerColumn<'_>, columns: usize) -> bool {
    values.per_column().is_none_or(|each| each == columns)
}

/// Lanes of a vector that are columns of the output.
pub(in crate::arch::x86_64) trait Lanes: Copy {
    /// # Safety
    /// AVX-512, here and below; so many can be read.
    unsafe fn load_words(self, from: *const i32) -> __m512i;
    /// # Safety
    /// So many can be written.
    unsafe fn store_words(self, to: *mut i32, values: __m512i);
    /// Their low bytes.
    ///
    /// # Safety
    /// So many bytes can be written.
    unsafe fn store_bytes(self, to: *mut u8, values: __m512i);
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
    unsafe fn store_bytes(self, to: *mut u8, values: __m512i) {
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(values)) }
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
    unsafe fn store_bytes(self, to: *mut u8, values: __m512i) {
        // SAFETY: as above.
        unsafe { _mm512_mask_cvtepi32_storeu_epi8(to.cast(), self.0, values) }
    }
}
