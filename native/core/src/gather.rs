//! Rows of a table: of a weight (n, k), some of the n, and no more of it decoded than the tiles that they lie in.

use crate::decoder::Bound;
use crate::decompress::{VerifiedWeight, each};
use crate::error::{Error, with_room};
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, PANEL};
use crate::parallel::Parallel;

/// What is told of a row that was asked for: a part of it.
#[derive(Debug, Clone, Copy)]
pub struct RowPart<'a> {
    /// Which of the rows that were asked for.
    pub position: usize,
    /// The row of the table.
    pub row: usize,
    /// The first column of the part.
    pub column: usize,
    /// The weights; those of int8 as the bytes that they are.
    pub weights: &'a [u8],
}

impl Bound<'_, VerifiedWeight> {
    /// Tells `sink` all parts of all `rows`, in any order and from several threads at once; each once.
    pub fn gather(
        &self,
        rows: &[usize],
        pool: &dyn Parallel,
        sink: &(dyn Fn(RowPart<'_>) + Sync),
    ) -> Result<(), Error> {
        let (geometry, tiles) = (self.geometry(), self.tiles());
        if let Some(&row) = rows.iter().find(|&&row| row >= geometry.n()) {
            return Err(Error::Argument { what: "the table", expected: row + 1, found: geometry.n() });
        }
        let mut wanted = with_room(rows.len(), "rows")?;
        wanted.extend(rows.iter().copied().zip(0..));
        wanted.sort_unstable();
        // Rows of one strip of tiles are decoded together.
        let strip = geometry.tile_columns();
        let mut strips: Vec<&[(usize, usize)]> = with_room(rows.len(), "strips of rows")?;
        strips.extend(wanted.chunk_by(|(one, _), (other, _)| one / strip == other / strip));
        let tiles_k = geometry.tiles_k();
        each(geometry, strips.len() * tiles_k, pool, |i, workspace| {
            let wanted = strips[i / tiles_k];
            let t = wanted[0].0 / strip * tiles_k + i % tiles_k;
            let shape = geometry.tile(t);
            // Rows lie anywhere in a table, so that no prefetcher finds their tiles.
            if let Some(next) = strips.get((i + 1) / tiles_k) {
                tiles.prefetch(next[0].0 / strip * tiles_k + (i + 1) % tiles_k);
            }
            tiles.with_symbols(t, workspace, |symbols| {
                let mut part = [0; FRACTAL_K * MAX_FRACTALS];
                let column = shape.fractal * FRACTAL_K;
                let len = (shape.fractals * FRACTAL_K).min(geometry.k() - column);
                let mut last = None;
                for &(row, position) in wanted {
                    if last != Some(row) {
                        let inside = row - shape.panel * PANEL;
                        let panel = &symbols[inside / PANEL * shape.fractals * FRACTAL..][..shape.fractals * FRACTAL];
                        self.copy_row(panel, inside % PANEL, &mut part);
                        last = Some(row);
                    }
                    sink(RowPart { position, row, column, weights: &part[..len] });
                }
            })
        })
    }

    /// Copies row `i` of a panel.
    fn copy_row(&self, panel: &[u8], i: usize, part: &mut [u8]) {
        let flip = u32::from_ne_bytes([self.weight_type().flip(); 4]);
        for (group, to) in panel.chunks_exact(GROUP).zip(part.chunks_exact_mut(4)) {
            let quad = group[4 * i..].first_chunk().expect("a group has 16 of four");
            to.copy_from_slice(&(u32::from_ne_bytes(*quad) ^ flip).to_ne_bytes());
        }
    }
}

/// Fractals of a tile at the most, along k.
const MAX_FRACTALS: usize = crate::geometry::MAX_TILE_FRACTALS;
