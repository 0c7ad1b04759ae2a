//! What the threads of a multiplication share, and where their sums become outputs.

use super::activation::Packed;
use super::columns::Columns;
use super::epilogue::{Correction, SharedOutput};
use super::prepared::PreparedWeight;
use super::ranges::pieces;
use crate::arch::Multiplier;
use crate::arch::output::{Output, ScalarOrPerColumn};
use crate::arch::rows::Terms;
use crate::decoder::Bound;
use crate::error::Error;
use std::ops::Range;

/// Columns of a step of the epilogue, where a block begins with a multiple of them: as many as a kernel's fast way takes.
const EPILOGUE_COLUMNS: usize = 64;

/// What all threads of a multiplication know once the activations are packed.
pub(super) struct Job<'a> {
    pub weight: Bound<'a, PreparedWeight>,
    /// What multiplies.
    pub kernel: &'static dyn Multiplier,
    /// Those of it that are multiplied by; all others below are counted from the first of them.
    pub columns: Columns,
    pub m: usize,
    pub packed: Packed<'a>,
    pub correction: &'a Correction<'a>,
    /// In the place of the output's own.
    pub scale: ScalarOrPerColumn<'a>,
    pub output: &'a SharedOutput<'a>,
}

impl Job<'_> {
    /// Writes the outputs of a block whose sums, rows `stride` apart, are complete. Columns in the padding are left out.
    ///
    /// # Safety
    /// No one else writes any of the block's outputs.
    pub unsafe fn epilogue(&self, sums: &[i32], stride: usize, rows: Range<usize>, columns: Range<usize>) {
        let real = columns.start..columns.end.min(self.columns.count);
        for rows_of_one in self.output.row_pieces(rows.clone()) {
            for columns_of_one in
                self.output.column_pieces(real.clone()).flat_map(|piece| pieces(piece, EPILOGUE_COLUMNS))
            {
                let at = (rows_of_one.start - rows.start) * stride + columns_of_one.start - columns.start;
                // SAFETY: the caller's contract.
                let (terms, out) = unsafe { self.block(rows_of_one.clone(), columns_of_one) };
                self.kernel.rows().epilogue(&sums[at..], stride, &terms, out);
            }
        }
    }

    /// Rows of a block whose epilogue is done in one, where that of its columns can be: those of each element of the batch.
    pub fn runs_of_rows(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Option<impl Iterator<Item = Range<usize>>> {
        let real = columns.start..columns.end.min(self.columns.count);
        (self.output.column_pieces(real).count() == 1).then(|| self.output.row_pieces(rows))
    }

    /// The output of a block of one head, without columns in the padding, and what its sums are corrected by.
    ///
    /// # Safety
    /// No one else has any of the block's outputs meanwhile.
    pub unsafe fn block(&self, rows: Range<usize>, columns: Range<usize>) -> (Terms<'_>, Output<'_>) {
        let columns = columns.start..columns.end.min(self.columns.count);
        let terms = self.correction.terms(columns.clone(), &self.packed.sums[rows.clone()]);
        debug_assert!(rows.end <= self.m && !columns.is_empty());
        // SAFETY: row and columns exist, for `validate` checked the output against m and n; the caller
        // promises the rest.
        (terms, unsafe { self.output.block(rows, columns, self.scale) })
    }
}

/// What damage means at a tile that was sound when the weight was prepared.
pub(super) fn changed(error: Error) -> Error {
    match error {
        Error::Tile { tile, .. } => Error::Tile { tile, reason: "has changed since it was checked" },
        other => other,
    }
}
