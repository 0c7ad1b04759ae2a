//! One multiplication: activations are packed, then a fused path decodes and multiplies at once, or a blocked one decodes strips first.
//! A small one by a decoded weight is done [`at_once`].

use super::activation::{Form, Memory, Packing};
use super::call::MatmulCall;
use super::columns::Columns;
use super::epilogue::{SharedOutput, corrections};
use super::job::Job;
use super::prepared::PreparedWeight;
use super::validate::validate;
use super::{at_once, blocked, fused};
use crate::arch::output::Output;
use crate::arch::{CallMemory, Multiplier, Workspace};
use crate::decoder::Bound;
use crate::error::Error;
use crate::parallel::{Barrier, Parallel, run_all};
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Multiply-adds that make a second thread worth waking.
const WORK_PER_THREAD: usize = 1 << 17;

impl Bound<'_, PreparedWeight> {
    /// Multiplies. The call is memory-safe whatever the weight's bytes are by now, and gives an error where they do not decode.
    pub fn run(&self, call: &MatmulCall<'_>, output: Output<'_>, pool: &dyn Parallel) -> Result<(), Error> {
        self.run_columns(0..self.n(), call, output, pool)
    }

    /// Multiplies by some columns alone, which begin and end where strips of tiles do: all that is given by column, and the output,
    /// is for those. As [`Self::run`] else.
    pub fn run_columns(
        &self,
        columns: Range<usize>,
        call: &MatmulCall<'_>,
        output: Output<'_>,
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        let columns = Columns::new(self.geometry(), columns)?;
        validate(self.k(), columns.count, call, &output)?;
        if call.m == 0 {
            return Ok(());
        }
        let call = &call.without_heads_of_one_row();
        // Taken out, not borrowed: a pool may run its first task on this thread.
        Workspace::with_call(|memory| run(*self, columns, call, output, pool, memory))
    }
}

fn run(
    weight: Bound<'_, PreparedWeight>,
    columns: Columns,
    call: &MatmulCall<'_>,
    output: Output<'_>,
    pool: &dyn Parallel,
    memory: &mut CallMemory,
) -> Result<(), Error> {
    let (m, k, n) = (call.m, weight.k(), columns.count);
    let kernel = weight.products(call.x.shift());
    let threads = pool.threads();
    let output = SharedOutput::new(output, (m, n), call.heads);
    if at_once::fits(&weight, kernel, call)
        && let Some(tasks) = at_once::tasks(m, k * n, threads)
        && at_once::run(weight, kernel, columns, call, &output, memory, (tasks, pool))?
    {
        return Ok(());
    }
    let threads = threads.min((m.saturating_mul(k * n) / WORK_PER_THREAD).max(1));
    let CallMemory { packed, row_sums, places, runs, terms } = memory;
    let decoding = weight.while_decoding(call.x.shift()).filter(|kernel| m <= kernel.fused_rows());
    let form = if weight.multiplies_bytes(call.x.shift()) {
        let (multiple, sums) = (kernel.rows().bytes_multiple(), weight.needs_sums(call.operands.w_zero_point));
        Form::Bytes { multiple, in_pieces: decoding.is_none(), sums }
    } else {
        Form::Packed { pad: padding(kernel), width: kernel.rows().width() }
    };
    let packing = Packing::new(Memory { data: packed, sums: row_sums, places }, call.x, (m, k), form)?;
    let scale = output.scale();
    let plan = match decoding {
        Some(kernel) => Plan::Fused(fused::Work::new(&weight, kernel, columns, threads, runs)?),
        None => Plan::Blocked(blocked::Work::new(&weight, kernel, columns, m, threads, runs)?),
    };
    // By one of the threads; the others wait a moment, which the system must not take for a rest.
    let (knowing, known, terms) = (Barrier::new(1), OnceLock::new(), Mutex::new(Some(terms)));
    // Threads are woken once, and the first to be there begins.
    visit(kernel, plan.threads(), pool, |thread, workspace| {
        let (packed, quantizer) = packing.share(kernel.rows(), &mut workspace.row)?;
        knowing.share(|_| {
            let terms = terms.lock().unwrap_or_else(PoisonError::into_inner).take().expect("this is done once");
            _ = known.set(corrections(kernel, terms, &weight, columns, call, scale, quantizer));
        });
        let known = known.get().expect("a thread that fails here has unwound, and so have the others");
        let (correction, scales) = known.as_ref().map_err(Clone::clone)?;
        let job = Job { weight, kernel, columns, m, packed, correction, scale: scales.or(scale), output: &output };
        match &plan {
            Plan::Fused(work) => job.fused(work, thread, workspace),
            Plan::Blocked(work) => job.blocked(work, thread, workspace),
        }
    })
}

/// The packed activation that adds nothing to the products, whatever the padding's symbols are: where bytes are summed up, it
/// stands for 0, else it is 0.
fn padding(kernel: &dyn Multiplier) -> i8 {
    if kernel.sums_bytes() { i8::MIN } else { 0 }
}

/// How the products are come by.
enum Plan<'a> {
    Fused(fused::Work<'a>),
    Blocked(blocked::Work<'a>),
}

impl Plan<'_> {
    fn threads(&self) -> usize {
        match self {
            Self::Fused(work) => work.threads(),
            Self::Blocked(work) => work.threads(),
        }
    }
}

/// Runs `part(0)` to `part(threads − 1)` of a kernel's work, at the same time if there are several. The first error that one of
/// them met.
fn visit(
    kernel: &dyn Multiplier,
    threads: usize,
    pool: &dyn Parallel,
    part: impl Fn(usize, &mut Workspace) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    run_all(pool, threads, |thread| {
        let mut done = Ok(());
        kernel.within(&mut || done = Workspace::with(|workspace| part(thread, workspace)));
        done
    })
}
