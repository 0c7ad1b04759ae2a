//! What kernels work on: codes, rows, accumulators and extents, their bounds checked.

use crate::codec::Code;
use crate::codec::decode::CodedTile;
use crate::error::{Error, with_room};
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

/// A coded tile, and what it takes to decode it.
#[derive(Debug, Clone, Copy)]
pub struct Coded<'a> {
    /// The weight's code.
    pub code: &'a TileCode,
    /// The tile's parts.
    pub tile: &'a CodedTile<'a>,
    /// Its extent.
    pub extent: Extent,
}

/// Elements from the first of `rows` rows to the end of the last, where rows of `len` are `stride` apart; none of no rows.
/// `None` where they are more than can be counted: raw pointers rely on it, so nothing here may wrap.
#[inline(always)]
pub fn reach(rows: usize, stride: usize, len: usize) -> Option<usize> {
    match rows.checked_sub(1) {
        Some(before) => before.checked_mul(stride)?.checked_add(len),
        None => Some(0),
    }
}

/// Activations of a row that meet a group.
pub const GROUP_K: usize = 4;

/// Activations of a row that lie together where rows lie in pieces: those of a block of groups.
pub const PIECE_K: usize = GROUP_K * PanelSteps::BLOCK;

/// Where rows of activations lie whose blocks are not beside each other: block b of row i begins at `rows[i] + blocks[b]`.
#[derive(Debug, Clone, Copy)]
pub struct Pieces<'a> {
    pub rows: &'a [u32],
    pub blocks: &'a [u32],
}

impl Pieces<'_> {
    /// Elements up to the end of the last.
    pub fn reach(&self) -> usize {
        let last = |places: &[u32]| places.iter().max().map_or(0, |&place| place as usize);
        last(self.rows).saturating_add(last(self.blocks)).saturating_add(PIECE_K)
    }
}

/// Rows of activations against one tile: (m, k) of int8, where k is fractals · 32, or less where a kernel knows of that.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [i8],
    stride: usize,
    m: usize,
    k: usize,
    pieces: Option<Pieces<'a>>,
}

impl<'a> Rows<'a> {
    /// `m` rows, `stride` apart, each of which has `k` elements inside `data`.
    ///
    /// # Panics
    /// If the last row ends behind `data`.
    pub fn new(data: &'a [i8], stride: usize, m: usize, k: usize) -> Self {
        assert!(m > 0 && reach(m, stride, k).is_some_and(|reach| reach <= data.len()));
        Self { data, stride, m, k, pieces: None }
    }
    /// Rows in pieces, all of which are inside `data`; for kernels that know of them
    /// ([`RowKernel::multiplies_bytes`](super::RowKernel::multiplies_bytes)).
    ///
    /// # Safety
    /// `data` has all that [`Pieces::reach`] says.
    pub unsafe fn in_pieces(data: &'a [i8], pieces: Pieces<'a>) -> Self {
        Self { data, stride: 0, m: pieces.rows.len(), k: pieces.blocks.len() * PIECE_K, pieces: Some(pieces) }
    }
    /// Where they lie, if not one behind the other.
    pub fn pieces(&self) -> Option<Pieces<'a>> {
        self.pieces
    }
    /// Whether every row has `k` elements.
    pub fn covers(&self, k: usize) -> bool {
        if let Some(pieces) = self.pieces {
            // What is behind is padding.
            return k.saturating_sub(FRACTAL_K) < pieces.blocks.len() * PIECE_K;
        }
        reach(self.m, self.stride, k).is_some_and(|reach| reach <= self.data.len())
    }
    /// Whether every row has whole groups, and all of `k` elements that are not padding.
    pub fn covers_groups(&self, k: usize) -> bool {
        self.k.is_multiple_of(GROUP_K) && k.saturating_sub(FRACTAL_K) < self.k
    }
    /// Elements of a row.
    pub fn k(&self) -> usize {
        self.k
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

/// Decoded panels, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Symbols<'a> {
    /// In kernel order.
    pub bytes: &'a [u8],
    /// How each is multiplied, where that was found out.
    pub steps: &'a [PanelSteps],
}

impl<'a> From<&'a [u8]> for Symbols<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, steps: &[] }
    }
}

impl Symbols<'_> {
    /// From a panel on, of so many bytes each.
    pub fn panels_from(self, panel: usize, bytes: usize) -> Self {
        Self { bytes: &self.bytes[panel * bytes..], steps: self.steps.get(panel..).unwrap_or_default() }
    }
}

/// In which order the blocks of a panel, four groups each, are multiplied: as many groups at once as their products fit 16 bits,
/// whatever the activations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PanelSteps {
    order: Vec<u16>,
    fours: usize,
    twos: usize,
    ones: usize,
}

impl PanelSteps {
    /// Groups of a block.
    pub const BLOCK: usize = 4;

    /// Those of blocks of which each has so many groups that go at once: 4, 2, 1, or 0 where products of one group do not fit
    /// either. None of more blocks than can be named.
    pub fn new(blocks: &[u8]) -> Result<Self, Error> {
        let mut order = with_room(blocks.len(), "steps of a panel")?;
        let mut counts = [0; 3];
        if u16::try_from(blocks.len()).is_ok() {
            for (at_once, count) in [4, 2, 1, 0].into_iter().zip(0..) {
                let of = blocks.iter().zip(0..).filter(|(block, _)| **block == at_once);
                order.extend(of.map(|(_, at)| at));
                counts[count..].iter_mut().for_each(|count| *count = order.len());
            }
        }
        Ok(Self { order, fours: counts[0], twos: counts[1], ones: counts[2] })
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.order.len()
    }
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
    /// Whether so many blocks go group by group that the others may as well: what two or four groups at once save, finding the
    /// blocks costs again, but for four where it is most of them.
    pub fn seldom_at_once(&self) -> bool {
        self.ones().len() > self.fours().len()
    }
    /// Blocks whose four groups go at once.
    pub fn fours(&self) -> &[u16] {
        &self.order[..self.fours]
    }
    /// Blocks of which two groups go at once.
    pub fn twos(&self) -> &[u16] {
        &self.order[self.fours..self.twos]
    }
    /// Blocks whose groups go one by one, whether their products fit 16 bits or not.
    pub fn ones(&self) -> &[u16] {
        &self.order[self.twos..]
    }
    /// Blocks whose products fit 16 bits, whatever the activations.
    pub fn fitting(&self) -> &[u16] {
        &self.order[..self.ones]
    }
    /// Those of them whose groups go one by one.
    pub fn ones_that_fit(&self) -> &[u16] {
        &self.order[self.twos..self.ones]
    }
    /// Blocks whose products may not fit.
    pub fn wide(&self) -> &[u16] {
        &self.order[self.ones..]
    }
}

/// Accumulators of one tile: row i, column j is `data[i * stride + j]`.
#[derive(Debug)]
pub struct Accumulators<'a> {
    data: &'a mut [i32],
    stride: usize,
    columns: usize,
    /// Nothing was added yet: they hold anything, and count as zero.
    overwrite: bool,
}

impl<'a> Accumulators<'a> {
    /// # Panics
    /// If `m` rows of `columns` do not fit.
    pub fn new(data: &'a mut [i32], stride: usize, m: usize, columns: usize) -> Self {
        assert!(m > 0 && columns <= stride && reach(m, stride, columns).is_some_and(|reach| reach <= data.len()));
        Self { data, stride, columns, overwrite: false }
    }
    /// The same, to count as zero whatever they hold.
    pub fn overwrite(self) -> Self {
        Self { overwrite: true, ..self }
    }
    /// All of them, to be added to.
    pub fn data(&mut self) -> &mut [i32] {
        if std::mem::take(&mut self.overwrite) {
            self.data.chunks_mut(self.stride).for_each(|row| {
                let columns = self.columns.min(row.len());
                row[..columns].fill(0);
            });
        }
        self.data
    }
    /// All of them, and whether they are to be overwritten instead of added to.
    pub fn data_or_overwrite(&mut self) -> (&mut [i32], bool) {
        (self.data, std::mem::take(&mut self.overwrite))
    }
    /// Distance of rows.
    pub fn stride(&self) -> usize {
        self.stride
    }
    /// Whether there are `m` rows of `columns`.
    pub fn covers(&self, m: usize, columns: usize) -> bool {
        reach(m, self.stride, columns).is_some_and(|reach| reach <= self.data.len())
    }
}

/// Extent of a tile: whole panels, whole fractals. Neither it nor anything that it gives can wrap.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    panels: usize,
    fractals: usize,
}

impl Extent {
    /// Panels of 16 columns, and fractals of 32 along k.
    ///
    /// # Panics
    /// If their weights are more than can be counted.
    pub fn new(panels: usize, fractals: usize) -> Self {
        // With one of each at least, so that the columns and the length of an empty extent can be counted as well.
        let weights = panels.max(1).checked_mul(fractals.max(1)).and_then(|fractals| fractals.checked_mul(FRACTAL));
        assert!(weights.is_some(), "an extent that can be counted");
        Self { panels, fractals }
    }
    /// Panels of 16 columns.
    pub fn panels(&self) -> usize {
        self.panels
    }
    /// Fractals of 32 along k.
    pub fn fractals(&self) -> usize {
        self.fractals
    }
    /// Weights, padding included.
    pub fn weights(&self) -> usize {
        self.panels * self.panel()
    }
    /// Weights of a panel.
    pub fn panel(&self) -> usize {
        self.fractals * FRACTAL
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
    ///
    /// # Panics
    /// If they are more than can be counted.
    pub fn span(&self, stride: usize) -> usize {
        reach(self.panels, stride, self.panel()).expect("a span that can be counted")
    }
    /// Copies symbols in kernel order to panels that are `stride` apart.
    ///
    /// # Panics
    /// If either side does not cover the extent.
    pub fn scatter(&self, symbols: &[u8], out: &mut [u8], stride: usize) {
        for (p, symbols) in symbols[..self.weights()].chunks_exact(self.panel()).enumerate() {
            out[p * stride..][..self.panel()].copy_from_slice(symbols);
        }
    }
}

/// How a large output is written. A hint: a kernel that knows no other way writes as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// As usual: each line is brought into the caches when it is written.
    Usual,
    /// Lines are fetched for writing shortly before.
    Fetched,
    /// Past the caches, where whole lines are written at once: none is read before it is written.
    Streamed,
}

/// Rows of bytes that symbols are written to.
#[derive(Debug, Clone, Copy)]
pub struct ByteRows {
    /// Where the first begins.
    pub at: *mut u8,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// What symbols are exclusive-ored with.
    pub flip: u8,
    /// How they are written.
    pub stores: Stores,
}

impl ByteRows {
    /// Rows that stay in the first cache.
    pub fn nearby(at: *mut u8, stride: usize, flip: u8) -> Self {
        Self { at, stride, flip, stores: Stores::Usual }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reach_that_cannot_be_counted_is_none() {
        assert_eq!(reach(0, usize::MAX, usize::MAX), Some(0));
        assert_eq!((reach(1, usize::MAX, 7), reach(3, 10, 7)), (Some(7), Some(27)));
        assert_eq!((reach(3, usize::MAX, 1), reach(2, usize::MAX, 1)), (None, None));
    }

    #[test]
    fn strides_that_wrap_cover_nothing() {
        // (3 − 1) · (2⁶³ + 1) is 2 where it wraps.
        let stride = usize::MAX / 2 + 2;
        assert!(std::panic::catch_unwind(|| Rows::new(&[0; 40], stride, 3, 32)).is_err());
        assert!(std::panic::catch_unwind(|| _ = Accumulators::new(&mut [0; 40], stride, 3, 16)).is_err());
        assert!(std::panic::catch_unwind(|| Extent::new(3, 1).span(stride)).is_err());
        assert!(std::panic::catch_unwind(|| _ = Extent::new(usize::MAX, 3)).is_err());
        assert!(!Rows::new(&[0; 40], 1, 3, 32).covers(usize::MAX));
    }
}
