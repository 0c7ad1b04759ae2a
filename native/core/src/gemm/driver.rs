//! One multiplication: activations are packed, then few rows take one way through the tiles and many another.

use super::activation::{Memory, Packed, Packing};
use super::epilogue::{Correction, Output, SharedOutput, pieces};
use super::prepared::PreparedWeight;
use super::stage::Stage;
use super::{MatmulCall, few, many};
use crate::arch::TileKernel;
use crate::arch::rows::{OutputBlock, Terms, Vector};
use crate::error::Error;
use crate::parallel::Parallel;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Columns that are finished at a time, where a block begins with a multiple of them: as many as a kernel's fast way takes.
const FINISH_COLUMNS: usize = 64;

/// Multiply-adds that make a second thread worth waking.
const WORK_PER_THREAD: usize = 1 << 17;

thread_local! {
    /// Packed activations of the last call, kept for their memory.
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// What all threads of a multiplication know once the activations are packed.
pub(super) struct Job<'a> {
    pub weight: &'a PreparedWeight,
    pub x2: &'a [u8],
    pub m: usize,
    pub packed: Packed<'a>,
    correction: &'a Correction,
    scale: Vector<'a>,
    output: &'a SharedOutput<'a>,
}

pub(super) fn run(
    weight: &PreparedWeight,
    x2: &[u8],
    call: &MatmulCall<'_>,
    output: Output<'_>,
    pool: &dyn Parallel,
) -> Result<(), Error> {
    let (m, k, n) = (call.m, weight.k(), weight.n());
    let kernel = weight.kernel.tile();
    let threads = pool.threads().min((m.saturating_mul(k * n) / WORK_PER_THREAD).max(1));
    // Taken out, not borrowed: a pool may run its first task on this thread.
    let mut memory = MEMORY.take();
    let packing = Packing::new(&mut memory, call.x, (m, k));
    let scale = output.scale();
    let output = SharedOutput::new(output, (m, n), call.heads);
    let plan = if weight.decoded.is_none() && m <= kernel.fused_rows() {
        Plan::Few(few::Work::new(weight, threads))
    } else {
        Plan::Many(many::Work::new(weight, m, threads))
    };
    // By one of the threads; the others wait a moment, which the system must not take for a rest.
    let (knowing, known) = (Stage::new(1), OnceLock::new());
    // Threads are woken once, and the first to be there begins.
    let result = visit(kernel, plan.threads(), pool, |thread| {
        let (packed, quantizer) = packing.share(kernel);
        knowing.share(|_| {
            let x_zero = quantizer.map_or(call.x_zero_point, |by| i32::from(by.zero_point));
            let correction = Correction::new(
                &weight.column_sums,
                k,
                x_zero.wrapping_sub(call.x.shift()),
                weight.weight_type().offset(),
                &call.w_zero_point,
                call.bias,
            );
            known.get_or_init(|| (correction, Scales::new(scale, quantizer.map(|by| by.scale).or(call.x_scale))));
        });
        let (correction, scales) = known.get().expect("a thread that fails here has unwound, and so have the others");
        let job = Job { weight, x2, m, packed, correction, scale: scales.vector(scale), output: &output };
        match &plan {
            Plan::Few(work) => job.few(work, thread),
            Plan::Many(work) => job.many(work, thread),
        }
    });
    MEMORY.set(memory);
    result
}

/// How the products are come by.
enum Plan {
    Few(few::Work),
    Many(many::Work),
}

impl Plan {
    fn threads(&self) -> usize {
        match self {
            Self::Few(work) => work.threads(),
            Self::Many(work) => work.threads(),
        }
    }
}

/// The output's scales, multiplied with that of the activations if they have one.
enum Scales {
    AsTheyAre,
    All(f32),
    PerColumn(Vec<f32>),
}

impl Scales {
    fn new(scale: Vector<'_>, factor: Option<f32>) -> Self {
        match (scale, factor) {
            (_, None) => Self::AsTheyAre,
            (Vector::Scalar(scale), Some(factor)) => Self::All(factor * scale),
            (Vector::PerColumn(scales), Some(factor)) => {
                Self::PerColumn(scales.iter().map(|scale| factor * scale).collect())
            }
        }
    }

    fn vector<'a>(&'a self, scale: Vector<'a>) -> Vector<'a> {
        match self {
            Self::AsTheyAre => scale,
            Self::All(scale) => Vector::Scalar(*scale),
            Self::PerColumn(scales) => Vector::PerColumn(scales),
        }
    }
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
        (terms, unsafe { self.output.block(rows, columns, &self.scale) })
    }
}

/// The damage of a tile that was sound when the weight was prepared.
pub(super) fn changed(tile: usize) -> Error {
    Error::Tile { tile, reason: "has changed since it was checked" }
}

/// Runs `part(0)` to `part(threads − 1)` of a kernel's work, at the same time if there are several. The first error that one of
/// them met.
fn visit(
    kernel: &dyn TileKernel,
    threads: usize,
    pool: &dyn Parallel,
    part: impl Fn(usize) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let error = Mutex::new(None);
    let run = |thread| {
        kernel.within(&mut || {
            if let Err(found) = part(thread) {
                error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
            }
        });
    };
    if threads == 1 {
        run(0);
    } else {
        pool.run(threads, &run);
    }
    error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
