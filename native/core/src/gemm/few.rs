//! Few rows: every tile is multiplied while it is being decoded.
//!
//! The tiles, n outer and k inner, are cut into as many runs of equal length as there are threads. A run covers whole
//! rows of tiles (a *strip* of a tile's columns over all of k), whose columns it finishes at once, and at most two parts
//! of strips, at its ends: their sums are set aside, added up and finished when all runs are done. Sums are integers, so
//! the cut changes no bit.

use super::driver::{Job, changed, collect};
use crate::aligned::Aligned;
use crate::arch::{Accumulators, Extent, Rows};
use crate::container::Tile;
use crate::container::geometry::FRACTAL_K;
use crate::error::Error;
use crate::parallel::Parallel;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Sums of a strip.
    static SUMS: RefCell<Aligned<i32>> = const { RefCell::new(Aligned::new()) };
}

/// Sums of a part of a strip.
struct Part {
    strip: usize,
    sums: Aligned<i32>,
}

pub(super) fn run(job: &Job<'_>, threads: usize, pool: &dyn Parallel) -> Result<(), Error> {
    let tiles = job.weight.weight.geometry().tiles();
    let runs = threads.min(tiles);
    let parts =
        collect(job.weight.kernel.tile(), runs, pool, |r| job.run_tiles(tiles * r / runs..tiles * (r + 1) / runs))?;
    job.finish_parts(parts.into_iter().flatten().collect());
    Ok(())
}

impl Job<'_> {
    /// Multiplies a run of tiles; what is left of strips that it has only parts of.
    fn run_tiles(&self, tiles: Range<usize>) -> Result<Vec<Part>, Error> {
        let geometry = self.weight.weight.geometry();
        let per_strip = geometry.tiles_k();
        let columns = geometry.tile_columns();
        let mut parts = Vec::new();
        let mut sums = SUMS.take();
        let mut at = tiles.start;
        while at < tiles.end {
            let strip = at / per_strip;
            let end = tiles.end.min((strip + 1) * per_strip);
            sums.reset(self.m * columns);
            for t in at..end {
                self.tile(t, &mut sums, t == at)?;
            }
            if end - at < per_strip {
                parts.push(Part { strip, sums: std::mem::take(&mut sums) });
            } else {
                self.finish_strip(strip, &sums);
            }
            at = end;
        }
        SUMS.set(sums);
        Ok(parts)
    }

    /// Adds the products of tile `t` to sums that count as zero if it is the first.
    fn tile(&self, t: usize, sums: &mut [i32], first: bool) -> Result<(), Error> {
        let geometry = self.weight.weight.geometry();
        let shape = geometry.tile(t);
        let extent = Extent { panels: shape.panels, fractals: shape.fractals };
        let x = &self.packed.data[shape.fractal * FRACTAL_K..];
        let rows = Rows::new(x, self.packed.stride, self.m, extent.k());
        let stride = geometry.tile_columns();
        let acc = Accumulators::new(sums, stride, self.m, extent.columns());
        let mut acc = if first { acc.fresh() } else { acc };
        let kernel = self.weight.kernel.tile();
        match self.weight.weight.tile(self.x2, t)? {
            Tile::Coded(tile) => {
                let code = self.weight.code.as_ref().expect("a coded tile has a code");
                if !kernel.multiply_coded(code, &tile, extent, rows, &mut acc) {
                    return Err(changed(t));
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

    fn finish_strip(&self, strip: usize, sums: &[i32]) {
        let columns = self.weight.weight.geometry().tile_columns();
        // SAFETY: a strip is finished once, by the one thread that has all of its sums.
        unsafe { self.finish(sums, columns, 0..self.m, strip * columns..(strip + 1) * columns) };
    }

    /// Adds up the parts of each strip that was cut, and finishes it.
    fn finish_parts(&self, mut parts: Vec<Part>) {
        parts.sort_by_key(|p| p.strip);
        let mut parts = parts.into_iter().peekable();
        while let Some(mut sum) = parts.next() {
            while let Some(part) = parts.next_if(|p| p.strip == sum.strip) {
                sum.sums.iter_mut().zip(part.sums.iter()).for_each(|(a, b)| *a = a.wrapping_add(*b));
            }
            self.finish_strip(sum.strip, &sum.sums);
        }
    }
}
