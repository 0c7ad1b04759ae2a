//! One multiplication: activations are packed, then few rows take one way through the tiles and many another.

use super::activation::Packed;
use super::epilogue::{Correction, Output, SharedOutput, pieces};
use super::prepared::PreparedWeight;
use super::{MatmulCall, few, many};
use crate::arch::TileKernel;
use crate::arch::rows::{OutputBlock, Terms};
use crate::error::Error;
use crate::parallel::Parallel;
use std::cell::RefCell;
use std::ops::Range;

/// Columns that are finished at a time, where a block begins with a multiple of them: as many as a kernel's fast way takes.
const FINISH_COLUMNS: usize = 64;

/// Multiply-adds that make a second thread worth waking.
const WORK_PER_THREAD: usize = 1 << 17;

thread_local! {
    /// Packed activations of the last call, kept for their memory.
    static PACKED: RefCell<Packed> = RefCell::default();
}

/// What all threads of a multiplication know.
pub(super) struct Job<'a> {
    pub weight: &'a PreparedWeight,
    pub x2: &'a [u8],
    pub m: usize,
    pub packed: &'a Packed,
    correction: Correction,
    output: SharedOutput<'a>,
}

pub(super) fn run(
    weight: &PreparedWeight,
    x2: &[u8],
    call: &MatmulCall<'_>,
    output: Output<'_>,
    pool: &dyn Parallel,
) -> Result<(), Error> {
    let (m, k, n) = (call.m, weight.k(), weight.n());
    let correction = Correction::new(
        &weight.column_sums,
        k,
        call.x_zero_point.wrapping_sub(call.x.shift()),
        weight.weight_type().offset(),
        &call.w_zero_point,
        call.bias,
    );
    // Taken out, not borrowed: a pool may run its first task on this thread.
    let mut packed = PACKED.take();
    let threads = pool.threads().min((m.saturating_mul(k * n) / WORK_PER_THREAD).max(1));
    packed.pack(weight.kernel.tile(), &call.x, (m, k), threads, pool);
    let job =
        Job { weight, x2, m, packed: &packed, correction, output: SharedOutput::new(output, (m, n), call.heads) };
    let result = if weight.decoded.is_none() && m <= weight.kernel.tile().fused_rows() {
        few::run(&job, threads, pool)
    } else {
        many::run(&job, threads, pool)
    };
    PACKED.set(packed);
    result
}

impl Job<'_> {
    /// Writes the outputs of a block whose sums, rows `stride` apart, are complete. Columns in the padding are left out.
    ///
    /// # Safety
    /// No one else finishes any of the block's outputs.
    pub unsafe fn finish(&self, sums: &[i32], stride: usize, rows: Range<usize>, columns: Range<usize>) {
        let real = columns.start..columns.end.min(self.weight.n());
        for rows_of_one in self.output.row_pieces(rows.clone()) {
            for columns_of_one in
                self.output.column_pieces(real.clone()).flat_map(|piece| pieces(piece, FINISH_COLUMNS))
            {
                let at = (rows_of_one.start - rows.start) * stride + columns_of_one.start - columns.start;
                // SAFETY: the caller's contract.
                let (terms, out) = unsafe { self.block(rows_of_one.clone(), columns_of_one) };
                self.weight.kernel.tile().finish(&sums[at..], stride, &terms, out);
            }
        }
    }

    /// Rows of a block that are finished in one, where its columns can be: those of each element of the batch.
    pub fn runs_of_rows(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Option<impl Iterator<Item = Range<usize>>> {
        let real = columns.start..columns.end.min(self.weight.n());
        (self.output.column_pieces(real).count() == 1).then(|| self.output.row_pieces(rows))
    }

    /// The output of a block of one head, without columns in the padding, and what its sums are corrected by.
    ///
    /// # Safety
    /// No one else has any of the block's outputs meanwhile.
    pub unsafe fn block(&self, rows: Range<usize>, columns: Range<usize>) -> (Terms<'_>, OutputBlock<'_>) {
        let columns = columns.start..columns.end.min(self.weight.n());
        let terms = self.correction.terms(columns.clone(), &self.packed.sums[rows.clone()]);
        debug_assert!(rows.end <= self.m && !columns.is_empty());
        // SAFETY: row and columns exist, for `PreparedWeight::run` checked the output against m and n; the caller
        // promises the rest.
        (terms, unsafe { self.output.block(rows, columns) })
    }
}

/// The damage of a tile that was sound when the weight was prepared.
pub(super) fn changed(tile: usize) -> Error {
    Error::Tile { tile, reason: "has changed since it was checked" }
}

/// Runs `part(0)` to `part(parts − 1)` of a kernel's work, at the same time if there are several, and collects what they
/// give.
pub(super) fn collect<T: Send>(
    kernel: &dyn TileKernel,
    parts: usize,
    pool: &dyn Parallel,
    part: impl Fn(usize) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let results = std::sync::Mutex::new(Vec::with_capacity(parts));
    let run = |p| {
        kernel.within(&mut || {
            let result = part(p);
            results.lock().expect("no panic while held").push(result);
        });
    };
    if parts == 1 {
        run(0);
    } else {
        pool.run(parts, &run);
    }
    results.into_inner().expect("no panic while held").into_iter().collect()
}
