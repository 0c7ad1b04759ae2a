//! A multiplication of few activations by a decoded weight: one thread quantises all rows, unless they are multiplied where they
//! are, and corrects the columns; then the kernel multiplies all panels and writes the outputs, each task some of them.
//!
//! No thread waits for another before the end: what other paths need for that takes as long as the products of a few rows.

use super::activation::{Activation, InPlace, uninit};
use super::blocked::Strip;
use super::call::MatmulCall;
use super::columns::Columns;
use super::epilogue::{SharedOutput, corrections};
use super::job::Job;
use super::prepared::PreparedWeight;
use crate::arch::{CallMemory, Extent, Multiplier, Symbols};
use crate::decoder::Bound;
use crate::error::{Error, resize};
use crate::geometry::{FRACTAL_K, PANEL};
use crate::parallel::{Parallel, run_all};
use crate::quantize::Quantizer;
use std::sync::atomic::{AtomicBool, Ordering};

/// Multiply-adds up to which one thread is as fast as two, of which one has to be woken.
const WORK: usize = 1 << 19;
/// Multiply-adds that make one more thread worth waking.
const WORK_PER_THREAD: usize = 1 << 16;
/// Rows up to which several threads do it like this; of more, other paths share out rows as well.
const SHARED_ROWS: usize = 32;
/// Tasks for each thread, so that one that wakes up late does fewer.
const TASKS_PER_THREAD: usize = 4;
/// Panels of each task, at least.
const LEAST_PANELS: usize = 4;
/// Activations that stay in the first cache beside a panel, where they are quantised; others are multiplied where they are.
const QUANTISED: usize = 1 << 14;
const IN_PLACE: usize = 1 << 17;

/// Tasks of a multiplication by so many weights on so many threads, if it is worth doing like this.
pub(super) fn tasks(m: usize, weights: usize, threads: usize) -> Option<usize> {
    let work = m.saturating_mul(weights);
    if threads == 1 || work <= WORK {
        return Some(1);
    }
    (m <= SHARED_ROWS).then(|| TASKS_PER_THREAD * threads.min(work / WORK_PER_THREAD))
}

/// Whether a multiplication can be done like this, if its activations can be multiplied where they are.
pub(super) fn fits(weight: &PreparedWeight, kernel: &dyn Multiplier, call: &MatmulCall<'_>) -> bool {
    let most = match call.x {
        Activation::F32(_, None) if weight.k().is_multiple_of(kernel.rows().bytes_multiple()) => QUANTISED,
        Activation::U8(_) | Activation::Rows(_) => IN_PLACE,
        _ => return false,
    };
    weight.is_decoded()
        && kernel.epilogue_tile().is_some()
        && call.x.len() <= most
        && call.heads.is_none_or(|heads| heads.columns.is_multiple_of(PANEL))
        && weight.multiplies_bytes(call.x.shift())
}

/// Multiplies. Where activations cannot be multiplied where they are, or the kernel has no way to make such an output, nothing is
/// done and the answer is `false`.
pub(super) fn run(
    weight: Bound<'_, PreparedWeight>,
    kernel: &'static dyn Multiplier,
    columns: Columns,
    call: &MatmulCall<'_>,
    output: &SharedOutput<'_>,
    CallMemory { packed, row_sums, places, terms, .. }: &mut CallMemory,
    (tasks, pool): (usize, &dyn Parallel),
) -> Result<bool, Error> {
    let (m, k) = (call.m, weight.k());
    resize(row_sums, m, "sums of rows")?;
    let (in_place, quantizer) = match call.x {
        Activation::F32(values, None) => {
            packed.reset(values.len(), "quantised activations")?;
            // SAFETY: the layout is the same.
            let bytes = unsafe { &mut *(std::ptr::from_mut(&mut packed[..]) as *mut [u8]) };
            let quantizer = Quantizer::from(kernel.rows().range(values));
            let bytes = &*kernel.rows().quantize(quantizer, values, uninit(bytes));
            (InPlace { bytes, k, pieces: None }, Some(quantizer))
        }
        x => match x.in_place((k, kernel.rows().bytes_multiple()), true, places)? {
            Some(in_place) => (in_place, None),
            None => return Ok(false),
        },
    };
    let extent = Extent::new(columns.count.div_ceil(PANEL), k.div_ceil(FRACTAL_K));
    if weight.needs_sums(call.operands.w_zero_point) {
        kernel.rows().sums(in_place.packed(&[]).rows(0..m, 0, extent), k, row_sums);
    }
    let (correction, scales) = corrections(kernel, terms, &weight, columns, call, output.scale(), quantizer)?;
    let packed = in_place.packed(row_sums);
    let job =
        Job { weight, kernel, columns, m, packed, correction: &correction, scale: scales.or(output.scale()), output };
    job.all_panels(extent, tasks, pool)
}

impl Job<'_> {
    /// Multiplies all columns in so many tasks at the most, if the kernel has a way to make such an output.
    fn all_panels(&self, extent: Extent, tasks: usize, pool: &dyn Parallel) -> Result<bool, Error> {
        let geometry = self.weight.geometry();
        let Some(symbols) = self.weight.decoded(&geometry.tile(self.columns.strip * geometry.tiles_k())) else {
            return Ok(false);
        };
        let (panels, fractals) = (extent.panels(), extent.k() / FRACTAL_K);
        let some = |panels| self.some_panels(symbols, &Strip::whole(0, panels, fractals));
        if tasks == 1 {
            return Ok(some(0..panels));
        }
        let together = self.kernel.epilogue_tile().map_or(1, |(_, panels)| panels);
        let each = panels.div_ceil(tasks).max(LEAST_PANELS).next_multiple_of(together);
        let done = AtomicBool::new(true);
        run_all(pool, panels.div_ceil(each), |task| {
            if !some(task * each..panels.min((task + 1) * each)) {
                done.store(false, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(done.into_inner())
    }

    /// Multiplies some panels, which are one task's alone; whether the kernel has a way to make such an output.
    fn some_panels(&self, symbols: Symbols<'_>, strip: &Strip) -> bool {
        let mut done = false;
        self.kernel.within(&mut || {
            // Without heads, what cuts rows and columns into pieces would take a tenth of the shortest calls.
            done = if self.output.is_one_piece() {
                self.block_in_registers(symbols, strip, strip.panels.clone(), 0..self.m)
            } else {
                self.pieces_in_registers(symbols, strip, 0..self.m)
            };
        });
        done
    }
}
