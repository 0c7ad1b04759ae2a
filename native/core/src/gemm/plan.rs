//! One multiplication: activations are packed, then a fused path decodes and multiplies at once, or a blocked one decodes strips first.

use super::activation::{Memory, Packing};
use super::call::MatmulCall;
use super::epilogue::{Correction, Output, SharedOutput};
use super::job::Job;
use super::prepared::PreparedWeight;
use super::validate::validate;
use super::{blocked, fused};
use crate::arch::TileKernel;
use crate::arch::rows::Vector;
use crate::error::Error;
use crate::parallel::{Barrier, Parallel};
use std::cell::RefCell;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Multiply-adds that make a second thread worth waking.
const WORK_PER_THREAD: usize = 1 << 17;

thread_local! {
    /// Packed activations of the last call, kept for their memory.
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl PreparedWeight {
    /// Multiplies. `x2` must be the bytes this was prepared from; the call is memory-safe whatever they are, and wrong
    /// ones give an error where they do not decode.
    pub fn run(
        &self,
        x2: &[u8],
        call: &MatmulCall<'_>,
        output: Output<'_>,
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        validate(self, x2, call, &output)?;
        if call.m == 0 {
            return Ok(());
        }
        run(self, x2, call, output, pool)
    }
}

fn run(
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
        Plan::Fused(fused::Work::new(weight, threads))
    } else {
        Plan::Blocked(blocked::Work::new(weight, m, threads))
    };
    // By one of the threads; the others wait a moment, which the system must not take for a rest.
    let (knowing, known) = (Barrier::new(1), OnceLock::new());
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
            Plan::Fused(work) => job.fused(work, thread),
            Plan::Blocked(work) => job.blocked(work, thread),
        }
    });
    MEMORY.set(memory);
    result
}

/// How the products are come by.
enum Plan {
    Fused(fused::Work),
    Blocked(blocked::Work),
}

impl Plan {
    fn threads(&self) -> usize {
        match self {
            Self::Fused(work) => work.threads(),
            Self::Blocked(work) => work.threads(),
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
