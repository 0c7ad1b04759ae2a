//! From the sums of a register tile to outputs: integers, floats, or bytes that are requantised.
//!
//! All begin with `sum + column − weight · row sum`, and the last two go on with `fp32(…) · scale`; every step is an operation of
//! its own.

use super::tiles::{Destination, Sums};
use crate::arch::output::{Destination as Memory, Elementwise, Epilogue, Output, ScalarOrPerColumn};
use crate::arch::rows::{Terms, WeightTerm};
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
}

/// A block of outputs, with what makes them of its sums.
pub(super) struct Outputs<'a, R> {
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

    /// Makes outputs of the sums of half a panel; `half` counts those of a row of the tile.
    ///
    /// # Safety
    /// As for [`Results::write`], with all rows of the tile.
    #[inline(always)]
    unsafe fn half<const MR: usize, const NR: usize, L: Lanes>(
        &self,
        (row, column): (usize, usize),
        (sums, half): (&Sums<MR, NR>, usize),
        row_terms: &[__m256i; MR],
        lanes: L,
    ) {
        // SAFETY: columns are as many as the output's.
        unsafe {
            let columns = _mm256_castps_si256(lanes.load(self.columns.as_ptr().cast::<f32>().add(column)));
            let by = self.results.per_column(column, lanes);
            for (i, (sums, row_term)) in sums.iter().zip(row_terms).enumerate() {
                let sums = _mm256_sub_epi32(_mm256_add_epi32(sums.as_flattened()[half], columns), *row_term);
                self.results.write(row + i, column, sums, by, lanes);
            }
        }
    }
}

impl<R: Results> Destination for Outputs<'_, R> {
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>) {
        // SAFETY: the caller's contract, and there is a sum for each row; columns in the padding are left out.
        unsafe {
            let mut row_terms = [_mm256_setzero_si256(); MR];
            for (i, row_term) in row_terms.iter_mut().enumerate() {
                let row_sum = *self.row_sums.get_unchecked(row + i);
                *row_term = _mm256_set1_epi32(self.weight.wrapping_mul(row_sum));
            }
            for half in 0..2 * NR {
                let column = panel * PANEL + half * EIGHT;
                match self.columns.len().saturating_sub(column) {
                    0 => {}
                    count @ 1..EIGHT => {
                        self.half((row, column), (sums, half), &row_terms, First::new(count));
                    }
                    _ => self.half((row, column), (sums, half), &row_terms, All),
                }
            }
        }
    }
}

/// Sums are the results.
pub(super) struct Summed {
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

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, _: usize, _: L) {}
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, row: usize, column: usize, sums: __m256i, (): (), lanes: L) {
        // SAFETY: the caller's contract.
        unsafe { lanes.store(self.out.add(row * self.stride + column).cast(), _mm256_castsi256_ps(sums)) }
    }
}

/// Sums become floats: `scaled (+ addend) (· gate) (+ residual)`.
pub(super) struct Dequantized<'a> {
    out: *mut f32,
    stride: usize,
    scale: ScalarOrPerColumn<'a>,
    addend: Option<ScalarOrPerColumn<'a>>,
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
    type PerColumn = (__m256, Option<__m256>);

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> Self::PerColumn {
        // SAFETY: the caller's contract; `outputs` has checked that there are as many as columns.
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
        // SAFETY: the caller's contract; `outputs` has checked that gate and residual cover the output.
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

/// Sums become bytes: scaled, clamped, rounded half to even, and the zero point added. NaN becomes the lowest value.
pub(super) struct Requantized<'a> {
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
    type PerColumn = __m256;

    #[inline(always)]
    unsafe fn per_column<L: Lanes>(&self, column: usize, lanes: L) -> __m256 {
        // SAFETY: the caller's contract; `outputs` has checked that there are as many as columns.
        unsafe { lanes.of(&self.scale, column) }
    }
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, row: usize, column: usize, sums: __m256i, scale: __m256, lanes: L) {
        // SAFETY: the caller's contract.
        unsafe {
            let values = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
            // Of a NaN and a number, the instruction gives the second operand.
            let values = _mm256_max_ps(values, _mm256_set1_ps(self.lowest));
            let values = _mm256_min_ps(values, _mm256_set1_ps(self.highest));
            let values = _mm256_add_epi32(_mm256_cvtps_epi32(values), _mm256_set1_epi32(self.zero_point));
            // The lowest byte of each lane of 32 bits, those of each half of the register beside each other.
            let order = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
            let fours = _mm256_shuffle_epi8(values, _mm256_broadcastsi128_si256(order));
            let (low, high) = (_mm256_castsi256_si128(fours), _mm256_extracti128_si256::<1>(fours));
            lanes.store_bytes(self.out.add(row * self.stride + column), _mm_unpacklo_epi32(low, high));
        }
    }
}

/// Whether there is a value for each column.
fn fits(values: ScalarOrPerColumn<'_>, columns: usize) -> bool {
    values.per_column().is_none_or(|each| each == columns)
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
