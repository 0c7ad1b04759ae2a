//! Many rows, or a weight that is decoded already: symbols in memory are multiplied block by block.
//!
//! A *strip* (the columns of a tile over all of k) is decoded once, into the second cache, as panels that reach over all
//! of it. A *block* is some of its panels by some rows: its sums never leave the first cache before they are finished,
//! unless k is so long that a strip is decoded in several chunks. Threads share out blocks of columns, and rows as well
//! where there are fewer such blocks than threads; a strip that two threads need is decoded by both.

use super::driver::{Job, changed, collect};
use crate::aligned::Aligned;
use crate::arch::{Accumulators, Extent, Rows};
use crate::container::geometry::{FRACTAL, FRACTAL_K, PANEL};
use crate::error::Error;
use crate::parallel::Parallel;
use crate::unpack::decode_tile;
use std::cell::RefCell;
use std::ops::Range;

/// Panels of a block.
const BLOCK_PANELS: usize = 4;
/// Rows that stay in the second cache, beside a strip, while they meet the panels of it.
const CACHED_ROWS: usize = 96;
/// Rows that are worth decoding a strip for once more.
const GROUP_ROWS: usize = 32;
/// Bytes of a strip that are decoded at a time; they share the second cache with activations and outputs.
const CHUNK_BYTES: usize = 512 << 10;

/// Memory that a thread keeps from call to call.
#[derive(Default)]
struct Scratch {
    symbols: Aligned<u8>,
    sums: Aligned<i32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) fn run(job: &Job<'_>, threads: usize, pool: &dyn Parallel) -> Result<(), Error> {
    let geometry = job.weight.weight.geometry();
    let per_strip = geometry.tiling().n.div_ceil(BLOCK_PANELS);
    let last = geometry.tile(geometry.tiles() - 1).panels.div_ceil(BLOCK_PANELS);
    let blocks = (geometry.tiles_n() - 1) * per_strip + last;
    let groups = threads.div_ceil(blocks).min(job.m / GROUP_ROWS).max(1);
    let cells = groups * blocks;
    // More parts than threads, where that costs nothing: a thread that wakes up late then does less.
    let runs = if threads == 1 {
        1
    } else if job.weight.decoded.is_some() {
        (4 * threads).min(cells)
    } else if groups == 1 && geometry.tiles_n().is_multiple_of(threads) {
        geometry.tiles_n()
    } else {
        threads.min(cells)
    };
    collect(job.weight.kernel.tile(), runs, pool, |r| {
        let mut scratch = SCRATCH.take();
        let mut at = cells * r / runs;
        let end = cells * (r + 1) / runs;
        while at < end {
            let (group, block) = (at / blocks, at % blocks);
            let rows = job.m * group / groups..job.m * (group + 1) / groups;
            let (strip, first) = (block / per_strip, block % per_strip);
            let count = (end - at).min(per_strip - first).min(blocks - block);
            job.strip(strip, first..first + count, rows, &mut scratch)?;
            at += count;
        }
        SCRATCH.set(scratch);
        Ok(())
    })?;
    Ok(())
}

impl Job<'_> {
    /// Multiplies some blocks of a strip with some rows.
    fn strip(
        &self,
        strip: usize,
        blocks: Range<usize>,
        rows: Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let geometry = self.weight.weight.geometry();
        let tiles_k = geometry.tiles_k();
        let shape = geometry.tile(strip * tiles_k);
        let panels = blocks.start * BLOCK_PANELS..(blocks.end * BLOCK_PANELS).min(shape.panels);
        if let Some(decoded) = &self.weight.decoded {
            let fractals = geometry.padded_k() / FRACTAL_K;
            let strip = Strip { panel: shape.panel, panels, fractal: 0, fractals, first: true, last: true };
            self.blocks(&decoded[self.weight.decoded_start(&shape)..], &strip, rows, &mut scratch.sums);
            return Ok(());
        }
        let chunk = (CHUNK_BYTES / (shape.panels * geometry.tiling().k * FRACTAL)).clamp(1, tiles_k);
        for start in (0..tiles_k).step_by(chunk) {
            let tiles = start..(start + chunk).min(tiles_k);
            let last = geometry.tile(strip * tiles_k + tiles.end - 1);
            let fractal = geometry.tile(strip * tiles_k + start).fractal;
            let fractals = last.fractal + last.fractals - fractal;
            scratch.symbols.reset(shape.panels * fractals * FRACTAL);
            for t in tiles.clone() {
                self.decode(strip * tiles_k + t, fractal, fractals * FRACTAL, &mut scratch.symbols)?;
            }
            let (first, last) = (start == 0, tiles.end == tiles_k);
            let strip = Strip { panel: shape.panel, panels: panels.clone(), fractal, fractals, first, last };
            self.blocks(&scratch.symbols, &strip, rows.clone(), &mut scratch.sums);
        }
        Ok(())
    }

    /// Writes the symbols of tile `t` to panels that begin at `fractal` and are `stride` bytes long.
    fn decode(&self, t: usize, fractal: usize, stride: usize, symbols: &mut [u8]) -> Result<(), Error> {
        let shape = self.weight.weight.geometry().tile(t);
        let out = &mut symbols[(shape.fractal - fractal) * FRACTAL..];
        let (code, kernel) = (self.weight.code.as_ref(), self.weight.kernel);
        let ok = decode_tile(&self.weight.weight, code, kernel, self.x2, t, out, stride)?;
        if ok { Ok(()) } else { Err(changed(t)) }
    }

    /// Multiplies decoded panels with some rows, and finishes the sums if they are complete.
    fn blocks(&self, symbols: &[u8], strip: &Strip, rows: Range<usize>, sums: &mut Aligned<i32>) {
        let block_rows = self.weight.kernel.tile().block_rows();
        let whole = strip.first && strip.last;
        // Sums of one block, or those of all blocks until the last chunk.
        let stride = if whole { BLOCK_PANELS * PANEL } else { strip.panels.len() * PANEL };
        sums.reset(stride * if whole { block_rows } else { rows.len() });
        // Some rows meet all panels while they are in the second cache.
        for group in rows.clone().step_by(CACHED_ROWS) {
            let group = group..rows.end.min(group + CACHED_ROWS);
            for panel in strip.panels.clone().step_by(BLOCK_PANELS) {
                let panels = panel..strip.panels.end.min(panel + BLOCK_PANELS);
                if whole && self.finished_in_registers(symbols, strip, panels.clone(), group.clone()) {
                    continue;
                }
                for i0 in group.clone().step_by(block_rows) {
                    let block = i0..group.end.min(i0 + block_rows);
                    let at =
                        if whole { 0 } else { (i0 - rows.start) * stride + (panel - strip.panels.start) * PANEL };
                    self.block_of_sums(symbols, strip, panels.clone(), block, &mut sums[at..], stride);
                }
            }
        }
    }

    /// Multiplies a block whose panels reach over all of k and writes its outputs, where the kernel has a way to do that at
    /// once; whether it has.
    fn finished_in_registers(&self, symbols: &[u8], strip: &Strip, panels: Range<usize>, rows: Range<usize>) -> bool {
        let columns = strip.columns(&panels);
        let Some(mut runs) = self.runs_of_rows(rows, columns.clone()) else { return false };
        runs.all(|rows| {
            let (symbols, extent, x) = self.operands(symbols, strip, &panels, &rows);
            // SAFETY: every block of columns and rows is in one run, and there finished once, here or elsewhere.
            let (terms, mut out) = unsafe { self.block(rows, columns.clone()) };
            self.weight.kernel.tile().multiply_finish(symbols, extent, x, &terms, &mut out)
        })
    }

    /// Adds the products of a block to its sums, rows `stride` apart, and finishes them if they are complete.
    fn block_of_sums(
        &self,
        symbols: &[u8],
        strip: &Strip,
        panels: Range<usize>,
        rows: Range<usize>,
        sums: &mut [i32],
        stride: usize,
    ) {
        let (symbols, extent, x) = self.operands(symbols, strip, &panels, &rows);
        let acc = Accumulators::new(sums, stride, rows.len(), extent.columns());
        let mut acc = if strip.first { acc.fresh() } else { acc };
        self.weight.kernel.tile().multiply(symbols, extent, x, &mut acc);
        if strip.last {
            // SAFETY: every block of columns and rows is in one run, and there finished once.
            unsafe { self.finish(sums, stride, rows, strip.columns(&panels)) };
        }
    }

    /// Symbols and activations of a block.
    fn operands<'s>(
        &'s self,
        symbols: &'s [u8],
        strip: &Strip,
        panels: &Range<usize>,
        rows: &Range<usize>,
    ) -> (&'s [u8], Extent, Rows<'s>) {
        let extent = Extent { panels: panels.len(), fractals: strip.fractals };
        let x = &self.packed.data[rows.start * self.packed.stride + strip.fractal * FRACTAL_K..];
        let x = Rows::new(x, self.packed.stride, rows.len(), extent.k());
        (&symbols[panels.start * strip.fractals * FRACTAL..], extent, x)
    }
}

/// Panels in memory.
struct Strip {
    /// First panel of the strip.
    panel: usize,
    /// Those that are multiplied, counted from there.
    panels: Range<usize>,
    /// Where they begin along k.
    fractal: usize,
    /// Their length.
    fractals: usize,
    /// Whether they begin at k = 0.
    first: bool,
    /// Whether they end with k.
    last: bool,
}

impl Strip {
    /// Columns of some of its panels.
    fn columns(&self, panels: &Range<usize>) -> Range<usize> {
        (self.panel + panels.start) * PANEL..(self.panel + panels.end) * PANEL
    }
}
