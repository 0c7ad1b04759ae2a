//! How one multiplication is spread over tiles and threads.
//!
//! The tiles, n outer and k inner, are cut into as many runs of equal length as there are threads. A run covers whole
//! rows of tiles (a *strip* of 128 columns over all of k), whose columns it finishes at once, and at most two parts of
//! strips, at its ends: their sums are set aside, added up and finished when all runs are done. Sums are integers, so the
//! cut changes no bit.

use super::MatmulCall;
use super::activation::Packed;
use super::epilogue::{Correction, Output, SharedOutput};
use super::prepared::PreparedWeight;
use crate::arch::{Accumulators, Extent, Rows};
use crate::container::Tile;
use crate::container::geometry::{FRACTAL_K, PANEL};
use crate::error::Error;
use crate::parallel::Parallel;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Mutex;

/// Multiply-adds that make a second thread worth waking.
const WORK_PER_THREAD: usize = 1 << 17;

/// Memory that a thread keeps from call to call.
#[derive(Default)]
struct Scratch {
    packed: Packed,
    acc: Vec<i32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Sums of a part of a strip.
struct Part {
    strip: usize,
    sums: Vec<i32>,
}

struct Job<'a> {
    weight: &'a PreparedWeight,
    x2: &'a [u8],
    m: usize,
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
    let geometry = weight.weight.geometry();
    let correction = Correction::new(
        &weight.column_sums,
        k,
        call.x_zero_point.wrapping_sub(call.x.shift()),
        weight.weight_type().offset(),
        &call.w_zero_point,
        call.bias,
    );
    let job = Job { weight, x2, m, correction, output: SharedOutput::new(output, n) };
    // Taken out, not borrowed: a pool may run its first task on this thread.
    let mut packed = SCRATCH.with_borrow_mut(|s| std::mem::take(&mut s.packed));
    packed.pack(weight.kernel.tile(), &call.x, m, k);
    let tiles = geometry.tiles();
    let runs = pool.threads().min(tiles).min((m.saturating_mul(k * n) / WORK_PER_THREAD).max(1));
    let mut parts = Vec::new();
    let result = if runs == 1 {
        job.run_tiles(0..tiles, &packed, &mut parts)
    } else {
        let collected = Mutex::new((Vec::new(), Ok(())));
        pool.run(runs, &|r| {
            let range = tiles * r / runs..tiles * (r + 1) / runs;
            let mut parts = Vec::new();
            let result = job.run_tiles(range, &packed, &mut parts);
            let mut collected = collected.lock().expect("no panic while held");
            collected.0.append(&mut parts);
            if result.is_err() {
                collected.1 = result;
            }
        });
        let (all, result) = collected.into_inner().expect("no panic while held");
        parts = all;
        result
    };
    if result.is_ok() {
        job.finish_parts(parts, &packed);
    }
    SCRATCH.with_borrow_mut(|s| s.packed = packed);
    result
}

impl Job<'_> {
    fn run_tiles(&self, tiles: Range<usize>, packed: &Packed, parts: &mut Vec<Part>) -> Result<(), Error> {
        let geometry = self.weight.weight.geometry();
        let per_strip = geometry.tiles_k();
        let columns = geometry.tile_columns();
        let mut acc = SCRATCH.with_borrow_mut(|s| std::mem::take(&mut s.acc));
        let mut at = tiles.start;
        let mut result = Ok(());
        while at < tiles.end && result.is_ok() {
            let strip = at / per_strip;
            let end = tiles.end.min((strip + 1) * per_strip);
            acc.resize(self.m * columns, 0);
            for t in at..end {
                result = self.tile(t, packed, &mut acc, t == at);
                if result.is_err() {
                    break;
                }
            }
            if end - at < per_strip {
                parts.push(Part { strip, sums: std::mem::take(&mut acc) });
            } else if result.is_ok() {
                self.finish(strip, &acc, packed);
            }
            at = end;
        }
        SCRATCH.with_borrow_mut(|s| s.acc = acc);
        result
    }

    /// Adds the products of tile `t` to sums that count as zero if it is the first.
    fn tile(&self, t: usize, packed: &Packed, acc: &mut [i32], first: bool) -> Result<(), Error> {
        let geometry = self.weight.weight.geometry();
        let shape = geometry.tile(t);
        let extent = Extent { panels: shape.panels, fractals: shape.fractals };
        let x = &packed.data[shape.fractal * FRACTAL_K..];
        let rows = Rows::new(x, packed.stride, self.m, extent.k());
        let stride = geometry.tile_columns();
        let acc = Accumulators::new(acc, stride, self.m, extent.columns());
        let mut acc = if first { acc.fresh() } else { acc };
        let kernel = self.weight.kernel.tile();
        if let Some(decoded) = &self.weight.decoded {
            kernel.multiply(&decoded[self.weight.decoded_start(&shape)..], extent, rows, &mut acc);
            return Ok(());
        }
        match self.weight.weight.tile(self.x2, t)? {
            Tile::Coded(tile) => {
                let code = self.weight.code.as_ref().expect("a coded tile has a code");
                let ok = kernel.multiply_coded(code, &tile, extent, rows, &mut acc);
                if !ok {
                    return Err(Error::Tile { tile: t, reason: "has changed since it was checked" });
                }
            }
            Tile::Raw(raw) => kernel.multiply(raw, extent, rows, &mut acc),
            Tile::Constant(symbol) => {
                for i in 0..self.m {
                    let sum = rows.row(i)[..extent.k()].iter().map(|&v| i32::from(v)).fold(0, i32::wrapping_add);
                    let sum = sum.wrapping_mul(i32::from(symbol));
                    acc.data()[i * stride..][..extent.columns()].iter_mut().for_each(|a| *a = a.wrapping_add(sum));
                }
            }
        }
        Ok(())
    }

    /// Writes the outputs of a strip whose sums are complete.
    fn finish(&self, strip: usize, acc: &[i32], packed: &Packed) {
        let geometry = self.weight.weight.geometry();
        let columns = geometry.tile_columns();
        let j0 = strip * geometry.tiling().n * PANEL;
        let count = columns.min(geometry.n() - j0);
        let kernel = self.weight.kernel.tile();
        for (i, row) in acc.chunks_exact(columns).enumerate() {
            let row = &row[..count];
            // SAFETY: row and columns exist, for `PreparedWeight::run` checked the output against m and n; a strip is
            // finished once, by the one thread that has all of its sums.
            let out = unsafe { self.output.row(i, j0, count) };
            kernel.finish(row, &self.correction.terms(j0, count, packed.sums[i]), out);
        }
    }

    /// Adds up the parts of each strip that was cut, and finishes it.
    fn finish_parts(&self, mut parts: Vec<Part>, packed: &Packed) {
        parts.sort_by_key(|p| p.strip);
        let mut parts = parts.into_iter().peekable();
        while let Some(mut sum) = parts.next() {
            while let Some(part) = parts.next_if(|p| p.strip == sum.strip) {
                sum.sums.iter_mut().zip(part.sums).for_each(|(a, b)| *a = a.wrapping_add(b));
            }
            self.finish(sum.strip, &sum.sums, packed);
        }
    }
}
