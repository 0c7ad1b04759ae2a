//! One kernel a processor family, all with the same results.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod portable;
pub mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

use crate::codec::Code;
use crate::codec::decode::CodedTile;
use crate::container::geometry::{FRACTAL, FRACTAL_K, PANEL};
use rows::{ActivationRow, OutputBlock, Terms};

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

/// Decoding and multiplication of one tile. Symbols are unsigned, activations signed; sums are exact int32 and wrap.
///
/// Every method is safe to call with any bytes: a tile that does not decode as its lengths say gives `false`, and
/// then the output is unspecified.
pub trait TileKernel: Sync {
    /// Architecture, operand types, instruction set.
    fn name(&self) -> &'static str;

    /// Does a thread's part of the work, many calls of the methods below, between what the kernel has to do before and
    /// after. Outside of it each call does that for itself.
    fn within(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// Asks for bytes to be brought into a cache.
    fn prefetch(&self, _bytes: &[u8]) {}

    /// Rows of a block whose sums stay in the first cache: a multiple of the rows that are multiplied at a time.
    fn block_rows(&self) -> usize {
        24
    }

    /// Rows up to which [`Self::multiply_coded`] is the better way; more are multiplied from decoded strips.
    fn fused_rows(&self) -> usize;

    /// Decodes a coded tile into kernel order, its panels `stride` bytes apart.
    ///
    /// # Panics
    /// If the tile does not fit.
    fn decode(&self, code: &TileCode, tile: &CodedTile<'_>, extent: Extent, out: &mut [u8], stride: usize) -> bool;

    /// Adds the products of a coded tile.
    fn multiply_coded(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
    ) -> bool;

    /// Adds the products of symbols in kernel order.
    fn multiply(&self, symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>);

    /// Multiplies symbols of panels that reach over all of k and finishes the sums before they are in memory. Where the
    /// kernel has no such way for this block, nothing is done and the answer is `false`.
    ///
    /// # Panics
    /// If operands, terms and output are not of one extent.
    fn multiply_finish(
        &self,
        _symbols: &[u8],
        _extent: Extent,
        _rows: Rows<'_>,
        _terms: &Terms<'_>,
        _out: &mut OutputBlock<'_>,
    ) -> bool {
        false
    }

    /// Packs a row of activations; its sum.
    fn pack(&self, from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
        rows::pack(from, to)
    }

    /// Turns the sums of a block, its rows `stride` apart, into outputs.
    fn finish(&self, sums: &[i32], stride: usize, terms: &Terms<'_>, out: OutputBlock<'_>) {
        rows::finish(sums, stride, terms, out);
    }
}
