//! The fused path, for few rows: every tile is multiplied while it is being decoded.
//!
//! The tiles, n outer and k inner, are shared out among the threads in runs. A run covers whole rows of tiles (a *strip* of a
//! tile's columns over all of k), whose outputs it writes at once, and parts of strips at its ends: their sums are kept as
//! split-K partial sums until another thread has the rest, which adds them to its own. Sums are integers, so the cut changes no bit.

use super::columns::Columns;
use super::job::{Job, changed};
use super::prepared::PreparedWeight;
use crate::aligned::Aligned;
use crate::arch::{Accumulators, Coded, Scratch, TileKernel, Workspace};
use crate::container::Tile;
use crate::error::Error;
use crate::parallel::WorkQueue;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Some tiles of a strip, and their sums.
struct Part {
    strip: usize,
    tiles: usize,
    sums: Aligned<i32>,
}

/// The tiles that are to be multiplied.
pub(super) struct Work<'a> {
    /// What decodes and multiplies them.
    kernel: &'static dyn TileKernel,
    queue: WorkQueue<'a>,
    partial_sums: Mutex<Vec<Part>>,
}

impl<'a> Work<'a> {
    pub fn new(
        weight: &PreparedWeight,
        kernel: &'static dyn TileKernel,
        columns: Columns,
        threads: usize,
        runs: &'a mut Vec<AtomicU64>,
    ) -> Result<Self, Error> {
        let tiles = columns.strips * weight.geometry().tiles_k();
        let queue = WorkQueue::new(runs, tiles, threads.min(tiles))?;
        Ok(Self { kernel, queue, partial_sums: Mutex::default() })
    }

    pub fn threads(&self) -> usize {
        self.queue.threads()
    }
}

impl Job<'_> {
    /// Multiplies the tiles that a thread is given.
    pub fn fused(&self, work: &Work<'_>, thread: usize, workspace: &mut Workspace) -> Result<(), Error> {
        let geometry = self.weight.geometry();
        let len = self.m * geometry.tile_columns();
        let mut part = Part { strip: 0, tiles: 0, sums: std::mem::take(&mut workspace.sums) };
        while let Some(t) = work.queue.next(thread) {
            let t = t + self.columns.strip * geometry.tiles_k();
            let strip = t / geometry.tiles_k();
            if strip != part.strip {
                self.end_part(&mut part, &work.partial_sums);
                part.strip = strip;
            }
            part.sums.reset(len, "sums of a strip")?;
            self.tile(t, work.kernel, (&mut part.sums, part.tiles == 0), &mut workspace.scratch)?;
            part.tiles += 1;
        }
        self.end_part(&mut part, &work.partial_sums);
        workspace.sums = part.sums;
        Ok(())
    }

    /// Adds all other parts that there are of a part's strip, and writes its outputs; if some are still missing, keeps the sums
    /// for them.
    fn end_part(&self, part: &mut Part, partial_sums: &Mutex<Vec<Part>>) {
        let per_strip = self.weight.geometry().tiles_k();
        while part.tiles != 0 {
            if part.tiles == per_strip {
                self.write_strip(part.strip, &part.sums);
                part.tiles = 0;
                return;
            }
            let mut others = partial_sums.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(at) = others.iter().position(|other| other.strip == part.strip) else {
                let (strip, sums) = (part.strip, std::mem::take(&mut part.sums));
                others.push(Part { strip, tiles: std::mem::take(&mut part.tiles), sums });
                return;
            };
            let other = others.swap_remove(at);
            drop(others);
            part.tiles += other.tiles;
            part.sums.iter_mut().zip(other.sums.iter()).for_each(|(a, b)| *a = a.wrapping_add(*b));
        }
    }

    /// Adds the products of tile `t` to sums that count as zero if it is the first.
    fn tile(
        &self,
        t: usize,
        kernel: &dyn TileKernel,
        (sums, first): (&mut [i32], bool),
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let (geometry, tiles) = (self.weight.geometry(), self.weight.tiles());
        let extent = tiles.extent(t);
        let rows = self.packed.rows(0..self.m, geometry.tile(t).fractal, extent);
        let stride = geometry.tile_columns();
        let acc = Accumulators::new(sums, stride, self.m, extent.columns());
        let mut acc = if first { acc.overwrite() } else { acc };
        tiles.with_tile(t, scratch, |tile, scratch| {
            match tile {
                Tile::Coded(tile) => {
                    let code = self.weight.code().expect("a coded tile has a code");
                    let result = kernel.multiply_coded(Coded { code, tile: &tile, extent }, rows, &mut acc, scratch);
                    result.map_err(|why| changed(tiles.refusal(t, why)))?;
                }
                Tile::Raw(raw) => kernel.multiply(raw.into(), extent, rows, &mut acc, scratch)?,
                Tile::Constant(symbol) => {
                    for i in 0..self.m {
                        let sum = kernel.multiply_constant(&rows.row(i)[..extent.k() * self.packed.width], symbol);
                        acc.data()[i * stride..][..extent.columns()]
                            .iter_mut()
                            .for_each(|a| *a = a.wrapping_add(sum));
                    }
                }
            }
            Ok(())
        })
    }

    fn write_strip(&self, strip: usize, sums: &[i32]) {
        let columns = self.weight.geometry().tile_columns();
        let strip = strip - self.columns.strip;
        // SAFETY: a strip is written once, by the one thread that has all of its sums.
        unsafe { self.epilogue(sums, columns, 0..self.m, strip * columns..(strip + 1) * columns) };
    }
}
