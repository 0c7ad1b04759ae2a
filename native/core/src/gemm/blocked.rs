//! The blocked path, for many rows or a weight that is decoded already: symbols in memory are multiplied block by block.
//!
//! A *strip* (the columns of a tile over all of k) is decoded into the second cache, as panels that reach over all of it. A
//! *block* is some of its panels by some rows: its sums never leave the first cache before their epilogue, unless k is
//! so long that a strip is decoded in several chunks. Threads share out blocks, and each decodes the strips of its own.

use super::columns::Columns;
use super::job::{Job, changed};
use super::prepared::PreparedWeight;
use crate::aligned::Aligned;
use crate::arch::{Accumulators, Extent, Multiplier, Rows, Scratch, Symbols, Workspace};
use crate::error::Error;
use crate::geometry::{FRACTAL, FRACTAL_K, PANEL};
use crate::parallel::WorkQueue;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

/// Panels of a block whose sums are in memory.
const BLOCK_PANELS: usize = 4;
/// Units for each thread, at least, where they are as long as one likes: one that wakes up late takes fewer.
const UNITS_PER_THREAD: usize = 8;
/// Bytes of activations that stay in the second cache, beside a strip, while they meet the panels of it; but at least so
/// many rows, and at most so many, for there should be something to share out.
const CACHED_BYTES: usize = 384 << 10;
const CACHED_ROWS: (usize, usize) = (96, 264);
/// Rows that are worth decoding a strip for once more.
const GROUP_ROWS: usize = 32;
/// Rows and products that are worth a group where threads share decoded panels.
const SHARED_ROWS: usize = 12;
const SHARED_WORK: usize = 1 << 19;
/// Bytes of a strip that are decoded at a time; they share the second cache with activations and outputs.
const CHUNK_BYTES: usize = 512 << 10;

/// Rows that meet the panels of a strip one after the other.
fn cached_rows(k: usize) -> usize {
    (CACHED_BYTES / k).clamp(CACHED_ROWS.0, CACHED_ROWS.1)
}

/// Groups of rows that threads share where blocks of panels alone are too few, or would not come out even.
fn groups_to_share((m, weights): (usize, usize), blocks: usize, threads: usize) -> usize {
    if threads == 1 {
        return 1;
    }
    let worth = m.saturating_mul(weights) / SHARED_WORK / blocks;
    (threads * UNITS_PER_THREAD / blocks).min(m / SHARED_ROWS).min(worth)
}

/// The work in units: cut by strips, by rows and, where strips are not cut into chunks, by blocks of panels, in this order from the
/// outermost. A weight that is decoded is one strip, if the kernel does not want four panels at a time.
pub(super) struct Work<'a> {
    queue: WorkQueue<'a>,
    /// Tiles that are decoded at a time.
    chunk: usize,
    groups: usize,
    /// Rows that are best multiplied together: groups are multiples of them, but for the last.
    together: usize,
    blocks: usize,
    /// Panels of each block but the last of a strip.
    panels: usize,
    /// Panels of the one strip, if there is one.
    one_strip: Option<usize>,
}

impl<'a> Work<'a> {
    pub fn new(
        weight: &PreparedWeight,
        kernel: &dyn Multiplier,
        columns: Columns,
        m: usize,
        threads: usize,
        runs: &'a mut Vec<AtomicU64>,
    ) -> Result<Self, Error> {
        let geometry = weight.geometry();
        let tiling = geometry.tiling();
        let (strips, tiles_k) = (columns.strips, geometry.tiles_k());
        let chunk = (CHUNK_BYTES / (tiling.n * tiling.k * FRACTAL)).clamp(1, tiles_k);
        let groups_that_stay = m.div_ceil(cached_rows(geometry.padded_k()));
        let tile = kernel.epilogue_tile().filter(|_| weight.is_decoded());
        let one_strip = tile.map(|_| columns.count.div_ceil(PANEL));
        let (strips, blocks, panels, groups) = if let Some(((_, together), all)) = tile.zip(one_strip) {
            let panels = if threads == 1 { all } else { all / (threads * UNITS_PER_THREAD) };
            let panels = panels.next_multiple_of(together).max(together);
            let blocks = all.div_ceil(panels);
            (
                1,
                blocks,
                panels,
                groups_that_stay.max(groups_to_share((m, geometry.padded_k() * columns.count), blocks, threads)),
            )
        } else if weight.is_decoded() || chunk == tiles_k {
            (strips, tiling.n.div_ceil(BLOCK_PANELS), BLOCK_PANELS, groups_that_stay)
        } else {
            (strips, 1, tiling.n, threads.div_ceil(strips).min(m / GROUP_ROWS).max(1))
        };
        let together = tile.map_or(kernel.block_rows(), |(rows, _)| rows);
        let groups = groups.min(m.div_ceil(together));
        let units = strips * groups * blocks;
        let queue = WorkQueue::new(runs, units, threads.min(units))?;
        Ok(Self { queue, chunk, groups, together, blocks, panels, one_strip })
    }

    /// The rows, of m, of a group: as many as those of the others or, but for the last, `together` more.
    fn rows(&self, group: usize, m: usize) -> Range<usize> {
        let tiles = m.div_ceil(self.together);
        let start = |group: usize| (group * tiles / self.groups * self.together).min(m);
        start(group)..start(group + 1)
    }

    pub fn threads(&self) -> usize {
        self.queue.threads()
    }
}

impl Job<'_> {
    /// Does the units that a thread is given.
    pub fn blocked(&self, work: &Work<'_>, thread: usize, workspace: &mut Workspace) -> Result<(), Error> {
        let mut decoded = None;
        while let Some(unit) = work.queue.next(thread) {
            self.unit(work, unit, &mut decoded, workspace)?;
        }
        Ok(())
    }

    /// Does a unit of the work. Where a whole strip is decoded at a time, `decoded` is the one that the workspace
    /// holds.
    fn unit(
        &self,
        work: &Work<'_>,
        unit: usize,
        decoded: &mut Option<usize>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let Workspace { symbols, sums, scratch, .. } = workspace;
        let geometry = self.weight.geometry();
        let tiles_k = geometry.tiles_k();
        let (strip, group, block) = (
            unit / work.blocks / work.groups + self.columns.strip,
            unit / work.blocks % work.groups,
            unit % work.blocks,
        );
        let shape = geometry.tile(strip * tiles_k);
        let rows = work.rows(group, self.m);
        let panels = block * work.panels..((block + 1) * work.panels).min(work.one_strip.unwrap_or(shape.panels));
        if panels.is_empty() {
            return Ok(()); // The last strip has fewer.
        }
        // Columns are counted from the first that is multiplied by.
        let panel = shape.panel - self.columns.start / PANEL;
        if let Some(decoded) = self.weight.decoded(&shape) {
            let fractals = geometry.padded_k() / FRACTAL_K;
            return self.blocks(decoded, &Strip::whole(panel, panels, fractals), rows, sums, scratch);
        }
        for start in (0..tiles_k).step_by(work.chunk) {
            let tiles = start..(start + work.chunk).min(tiles_k);
            let last = geometry.tile(strip * tiles_k + tiles.end - 1);
            let fractal = geometry.tile(strip * tiles_k + start).fractal;
            let fractals = last.fractal + last.fractals - fractal;
            let whole = tiles.len() == tiles_k;
            if !whole || *decoded != Some(strip) {
                *decoded = None;
                symbols.reset(shape.panels * fractals * FRACTAL, "decoded tiles")?;
                for t in tiles.clone() {
                    self.decode(strip * tiles_k + t, fractal, fractals * FRACTAL, symbols, scratch)?;
                }
                *decoded = whole.then_some(strip);
            }
            let (first, last) = (start == 0, tiles.end == tiles_k);
            let strip = Strip { panel, panels: panels.clone(), fractal, fractals, first, last };
            self.blocks((&symbols[..]).into(), &strip, rows.clone(), sums, scratch)?;
        }
        Ok(())
    }

    /// Writes the symbols of tile `t` to panels that begin at `fractal` and are `stride` bytes long.
    fn decode(
        &self,
        t: usize,
        fractal: usize,
        stride: usize,
        symbols: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let out = &mut symbols[(self.weight.geometry().tile(t).fractal - fractal) * FRACTAL..];
        self.weight.tiles().decode(t, out, stride, scratch).map_err(changed)
    }

    /// Multiplies decoded panels with some rows, and does the epilogue if their sums are complete.
    fn blocks(
        &self,
        symbols: Symbols<'_>,
        strip: &Strip,
        rows: Range<usize>,
        sums: &mut Aligned<i32>,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let block_rows = self.kernel.block_rows();
        let whole = strip.first && strip.last;
        // Sums of one block, or those of all blocks until the last chunk.
        let stride = if whole { BLOCK_PANELS * PANEL } else { strip.panels.len() * PANEL };
        sums.reset(stride * if whole { block_rows } else { rows.len() }, "sums of a block")?;
        // Some rows meet all panels while they are in the second cache; where strips are not cut, a unit has no more.
        let cached = if whole { rows.len() } else { cached_rows(strip.fractals * FRACTAL_K) };
        for group in rows.clone().step_by(cached) {
            let group = group..rows.end.min(group + cached);
            if whole
                && self.kernel.epilogue_tile().is_some()
                && self.pieces_in_registers(symbols, strip, group.clone())
            {
                continue;
            }
            for panel in strip.panels.clone().step_by(BLOCK_PANELS) {
                let panels = panel..strip.panels.end.min(panel + BLOCK_PANELS);
                if whole && self.epilogue_in_registers(symbols, strip, panels.clone(), group.clone()) {
                    continue;
                }
                for i0 in group.clone().step_by(block_rows) {
                    let block = i0..group.end.min(i0 + block_rows);
                    let at =
                        if whole { 0 } else { (i0 - rows.start) * stride + (panel - strip.panels.start) * PANEL };
                    let sums = Sums { at: &mut sums[at..], stride };
                    self.block_of_sums(symbols, strip, panels.clone(), block, sums, scratch)?;
                }
            }
        }
        Ok(())
    }

    /// Multiplies panels as [`Self::epilogue_in_registers`] does, those of each head by themselves, where heads end with panels.
    pub fn pieces_in_registers(&self, symbols: Symbols<'_>, strip: &Strip, rows: Range<usize>) -> bool {
        let columns = strip.columns(&strip.panels);
        let real = columns.start..columns.end.min(self.columns.count);
        let mut pieces = self.output.column_pieces(real).map(|piece| {
            (piece.start.is_multiple_of(PANEL))
                .then(|| piece.start / PANEL - strip.panel..piece.end.div_ceil(PANEL) - strip.panel)
        });
        pieces.all(|panels| {
            panels.is_some_and(|panels| self.epilogue_in_registers(symbols, strip, panels, rows.clone()))
        })
    }

    /// Multiplies a block whose panels reach over all of k and writes its outputs, where the kernel has a way to do that at
    /// once; whether it has.
    fn epilogue_in_registers(
        &self,
        symbols: Symbols<'_>,
        strip: &Strip,
        panels: Range<usize>,
        rows: Range<usize>,
    ) -> bool {
        let columns = strip.columns(&panels);
        let Some(mut runs) = self.runs_of_rows(rows, columns) else { return false };
        runs.all(|rows| self.block_in_registers(symbols, strip, panels.clone(), rows))
    }

    /// As [`Self::epilogue_in_registers`], of rows and columns of one head.
    pub fn block_in_registers(
        &self,
        symbols: Symbols<'_>,
        strip: &Strip,
        panels: Range<usize>,
        rows: Range<usize>,
    ) -> bool {
        let (symbols, extent, x) = self.operands(symbols, strip, &panels, &rows);
        // SAFETY: every block of columns and rows is in one unit, and its outputs are written by the thread that has that alone.
        let (terms, mut out) = unsafe { self.block(rows, strip.columns(&panels)) };
        self.kernel.multiply_epilogue(symbols, extent, x, &terms, &mut out)
    }

    /// Adds the products of a block to its sums, and does the epilogue if they are complete.
    fn block_of_sums(
        &self,
        symbols: Symbols<'_>,
        strip: &Strip,
        panels: Range<usize>,
        rows: Range<usize>,
        sums: Sums<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let (symbols, extent, x) = self.operands(symbols, strip, &panels, &rows);
        let acc = Accumulators::new(sums.at, sums.stride, rows.len(), extent.columns());
        let mut acc = if strip.first { acc.overwrite() } else { acc };
        self.kernel.multiply(symbols, extent, x, &mut acc, scratch)?;
        if strip.last {
            // SAFETY: every block of columns and rows is in one run, and there written once.
            unsafe { self.epilogue(sums.at, sums.stride, rows, strip.columns(&panels)) };
        }
        Ok(())
    }

    /// Symbols and activations of a block.
    fn operands<'s>(
        &'s self,
        symbols: Symbols<'s>,
        strip: &Strip,
        panels: &Range<usize>,
        rows: &Range<usize>,
    ) -> (Symbols<'s>, Extent, Rows<'s>) {
        let extent = Extent::new(panels.len(), strip.fractals);
        let x = self.packed.rows(rows.clone(), strip.fractal, extent);
        (symbols.panels_from(panels.start, strip.fractals * FRACTAL), extent, x)
    }
}

/// Sums of a block, whose rows are `stride` apart.
struct Sums<'a> {
    at: &'a mut [i32],
    stride: usize,
}

/// Panels in memory.
pub(super) struct Strip {
    /// First panel of the strip.
    panel: usize,
    /// Those that are multiplied, counted from there.
    pub panels: Range<usize>,
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
    /// Some panels of a strip that reaches over all of k.
    pub fn whole(panel: usize, panels: Range<usize>, fractals: usize) -> Self {
        Self { panel, panels, fractal: 0, fractals, first: true, last: true }
    }

    /// Columns of some of its panels.
    fn columns(&self, panels: &Range<usize>) -> Range<usize> {
        (self.panel + panels.start) * PANEL..(self.panel + panels.end) * PANEL
    }
}
