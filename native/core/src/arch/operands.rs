//! What kernels work on: codes, rows, accumulators and extents, their bounds checked.

use crate::codec::Code;
use crate::geometry::{FRACTAL, FRACTAL_K, PANEL};

/// A code with its look-up table, as kernels take it.
#[derive(Debug, Clone)]
pub struct TileCode {
    /// Parameters.
    pub code: Code,
    /// Symbol by rank.
    pub table: [u8; 256],
}

impl From<Code> for TileCode {
    fn from(code: Code) -> Self {
        Self { table: code.table(), code }
    }
}

/// Rows of activations against one tile: (m, fractals · 32) of int8.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [i8],
    stride: usize,
    m: usize,
}

impl<'a> Rows<'a> {
    /// `m` rows, `stride` apart, each of which has `k` elements inside `data`.
    ///
    /// # Panics
    /// If the last row ends behind `data`.
    pub fn new(data: &'a [i8], stride: usize, m: usize, k: usize) -> Self {
        assert!(m > 0 && (m - 1) * stride + k <= data.len());
        Self { data, stride, m }
    }
    /// Whether every row has `k` elements.
    pub fn covers(&self, k: usize) -> bool {
        (self.m - 1) * self.stride + k <= self.data.len()
    }
    /// Number of rows.
    pub fn m(&self) -> usize {
        self.m
    }
    /// Distance of rows.
    pub fn stride(&self) -> usize {
        self.stride
    }
    /// From the first element of the first row on.
    pub fn data(&self) -> &'a [i8] {
        self.data
    }
    /// Row `i`, and what follows it.
    pub fn row(&self, i: usize) -> &'a [i8] {
        &self.data[i * self.stride..]
    }
}

/// Accumulators of one tile: row i, column j is `data[i * stride + j]`.
#[derive(Debug)]
pub struct Accumulators<'a> {
    data: &'a mut [i32],
    stride: usize,
    columns: usize,
    /// Nothing was added yet: they hold anything, and count as zero.
    fresh: bool,
}

impl<'a> Accumulators<'a> {
    /// # Panics
    /// If `m` rows of `columns` do not fit.
    pub fn new(data: &'a mut [i32], stride: usize, m: usize, columns: usize) -> Self {
        assert!(m > 0 && columns <= stride && (m - 1) * stride + columns <= data.len());
        Self { data, stride, columns, fresh: false }
    }
    /// The same, to count as zero whatever they hold.
    pub fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }
    /// All of them, to be added to.
    pub fn data(&mut self) -> &mut [i32] {
        if std::mem::take(&mut self.fresh) {
            self.data.chunks_mut(self.stride).for_each(|row| {
                let columns = self.columns.min(row.len());
                row[..columns].fill(0);
            });
        }
        self.data
    }
    /// All of them, and whether they are to be overwritten instead of added to.
    pub fn data_or_fresh(&mut self) -> (&mut [i32], bool) {
        (self.data, std::mem::take(&mut self.fresh))
    }
    /// Distance of rows.
    pub fn stride(&self) -> usize {
        self.stride
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.data.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// Extent of a tile: whole panels, whole fractals.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Panels of 16 columns.
    pub panels: usize,
    /// Fractals of 32 along k.
    pub fractals: usize,
}

impl Extent {
    /// Weights, padding included.
    pub fn weights(&self) -> usize {
        self.panels * self.fractals * FRACTAL
    }
    /// Length of the dot products.
    pub fn k(&self) -> usize {
        self.fractals * FRACTAL_K
    }
    /// Output columns.
    pub fn columns(&self) -> usize {
        self.panels * PANEL
    }
    /// Bytes that its symbols reach over in panels that are `stride` apart.
    pub fn span(&self, stride: usize) -> usize {
        (self.panels - 1) * stride + self.fractals * FRACTAL
    }
    /// Copies symbols in kernel order to panels that are `stride` apart.
    ///
    /// # Panics
    /// If either side does not cover the extent.
    pub fn scatter(&self, symbols: &[u8], out: &mut [u8], stride: usize) {
        let panel = self.fractals * FRACTAL;
        for (p, symbols) in symbols[..self.weights()].chunks_exact(panel).enumerate() {
            out[p * stride..][..panel].copy_from_slice(symbols);
        }
    }
}
