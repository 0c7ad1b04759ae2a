//! A weight made ready for many multiplications.

use crate::aligned::Aligned;
use crate::arch::{Accumulators, Extent, Rows, TileCode};
use crate::codec::WeightType;
use crate::codec::decode::CodedTile;
use crate::container::{CompressedWeight, Tile};
use crate::dispatch::Kernel;
use crate::error::{Error, with_room};
use crate::geometry::{FRACTAL, FRACTAL_K, PANEL, TileShape};
use crate::parallel::{Parallel, Scoped, Serial};
use crate::unpack::{decode_tile, refusal};
use std::sync::Mutex;

/// What a weight occupies while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residency {
    /// Compressed, decoded at every multiplication.
    #[default]
    Compressed,
    /// Decoded once.
    Decoded,
}

/// How to prepare.
#[derive(Debug, Clone, Copy)]
pub struct PrepareOptions {
    /// What the weight occupies.
    pub residency: Residency,
    /// Which kernel runs.
    pub kernel: Kernel,
    /// Threads for the checks of a large weight, at least 1.
    pub threads: usize,
}

impl PrepareOptions {
    /// Compressed residency; the kernel that `MCD_KERNEL` names, or the best.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self { residency: Residency::default(), kernel: Kernel::from_env()?, threads: 1 })
    }
}

/// A checked weight: tile table, column sums and, when decoded, the symbols. The compressed bytes stay with the caller.
#[derive(Debug)]
pub struct PreparedWeight {
    pub(super) weight: CompressedWeight,
    pub(super) code: Option<TileCode>,
    pub(super) kernel: Kernel,
    pub(super) column_sums: Vec<i32>,
    /// Symbols in panels that reach over all of k, in each in kernel order.
    pub(super) decoded: Option<Aligned<u8>>,
}

/// Bytes that are fetched before a multiplication: the first tile, about.
const PREFETCHED: usize = 24 << 10;

/// Weights below this are checked by the calling thread alone.
const PARALLEL_FROM: usize = 4 << 20;

impl PreparedWeight {
    /// Checks all three tensors, every checksum and every code word, and sums the columns.
    pub fn new(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, Error> {
        let weight = CompressedWeight::parse(x2, index, info)?;
        let code = weight.code().cloned().map(TileCode::from);
        let mut prepared = Self { weight, code, kernel: options.kernel, column_sums: Vec::new(), decoded: None };
        prepared.check(x2, options)?;
        Ok(prepared)
    }

    /// Length of a dot product.
    pub fn k(&self) -> usize {
        self.weight.geometry().k()
    }
    /// Output columns.
    pub fn n(&self) -> usize {
        self.weight.geometry().n()
    }
    /// Type of the weights.
    pub fn weight_type(&self) -> WeightType {
        self.weight.weight_type()
    }
    /// The kernel that runs.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
    /// Has the processor fetch what a multiplication begins with, while the caller still prepares it. Decoded symbols are
    /// read faster than they are fetched this way.
    pub fn prefetch(&self, x2: &[u8]) {
        if self.decoded.is_none() {
            self.kernel.tile().prefetch(&x2[..x2.len().min(PREFETCHED)]);
        }
    }

    /// Where the decoded symbols of the strip that tile `shape` is in begin.
    pub(super) fn decoded_start(&self, shape: &TileShape) -> usize {
        shape.panel * PANEL * self.weight.geometry().padded_k()
    }

    /// Verifies every tile; fills column sums and, if asked for, the decoded symbols.
    fn check(&mut self, x2: &[u8], options: PrepareOptions) -> Result<(), Error> {
        let geometry = *self.weight.geometry();
        // One where k is real, zero in the padding: a product with it is the column sum.
        let mut ones = with_room(geometry.padded_k(), "a row of activations")?;
        ones.resize(geometry.padded_k(), 1i8);
        ones[geometry.k()..].fill(0);
        let mut column_sums = with_room(geometry.tiles_n() * geometry.tile_columns(), "column sums")?;
        let mut decoded = match options.residency {
            Residency::Decoded => Aligned::zeroed(geometry.padded_n() * geometry.padded_k(), "a decoded weight")?,
            Residency::Compressed => Aligned::new(),
        };
        let check = Check { weight: &self.weight, code: self.code.as_ref(), kernel: self.kernel, x2, ones: &ones };
        // The decoded symbols of each strip, or nothing.
        let mut symbols = decoded.chunks_mut(geometry.tiling().n * geometry.padded_k() * PANEL);
        let mut strips = with_room(geometry.tiles_n(), "strips")?;
        strips.extend((0..geometry.tiles_n()).map(|_| {
            let symbols: &mut [u8] = symbols.next().unwrap_or_default();
            Mutex::new((symbols, Ok(Checked::default())))
        }));
        let pool: &dyn Parallel = match options.threads {
            0 | 1 => &Serial,
            _ if geometry.k() * geometry.n() < PARALLEL_FROM => &Serial,
            threads => &Scoped(threads),
        };
        pool.run(geometry.tiles_n(), &|tn| {
            let mut guard = strips[tn].lock().expect("no panics above");
            let (symbols, found) = &mut *guard;
            *found = check.strip(tn, symbols);
        });
        let mut counts = with_room(geometry.tiles() * self.weight.counts_of_a_tile(), "counts of tiles")?;
        for strip in strips {
            let found = strip.into_inner().expect("no panics above").1?;
            column_sums.extend(found.sums);
            counts.extend(found.counts);
        }
        column_sums.truncate(geometry.n());
        self.column_sums = column_sums;
        if options.residency == Residency::Compressed && self.code.is_some() {
            self.weight.remember_counts(counts);
        }
        self.decoded = (options.residency == Residency::Decoded).then_some(decoded);
        Ok(())
    }
}

/// What all threads know that check a weight.
struct Check<'a> {
    weight: &'a CompressedWeight,
    code: Option<&'a TileCode>,
    kernel: Kernel,
    x2: &'a [u8],
    /// A row of activations: one where k is real.
    ones: &'a [i8],
}

/// What is known of a strip once it is checked.
#[derive(Default)]
struct Checked {
    /// Of its columns.
    sums: Vec<i32>,
    /// Of each tile, as [`CompressedWeight::verify_tile`] gives them.
    counts: Vec<u16>,
}

impl Check<'_> {
    /// Checks a strip; its symbols go where there is room for them.
    fn strip(&self, tn: usize, symbols: &mut [u8]) -> Result<Checked, Error> {
        let geometry = self.weight.geometry();
        let counts_of_a_tile = self.weight.counts_of_a_tile();
        let mut sums = vec![0; geometry.tile_columns()];
        let mut counts = with_room(geometry.tiles_k() * counts_of_a_tile, "counts of a strip's tiles")?;
        for tk in 0..geometry.tiles_k() {
            let found = self.tile(tn * geometry.tiles_k() + tk, symbols, &mut sums)?;
            counts.extend(found);
            counts.resize((tk + 1) * counts_of_a_tile, 0);
        }
        if !symbols.is_empty() {
            let panel = geometry.padded_k() * PANEL;
            let extent = Extent { panels: symbols.len() / panel, fractals: panel / FRACTAL };
            let rows = Rows::new(self.ones, self.ones.len(), 1, extent.k());
            let mut acc = Accumulators::new(&mut sums, geometry.tile_columns(), 1, extent.columns());
            self.kernel.tile().multiply(symbols, extent, rows, &mut acc);
        }
        Ok(Checked { sums, counts })
    }

    /// Checks tile `t` and decodes it to its strip's symbols or, where there is no room for them, adds its columns to `sums`.
    /// Gives its counts.
    fn tile(&self, t: usize, symbols: &mut [u8], sums: &mut [i32]) -> Result<Vec<u16>, Error> {
        let geometry = self.weight.geometry();
        let shape = geometry.tile(t);
        let extent = Extent { panels: shape.panels, fractals: shape.fractals };
        let rows = Rows::new(&self.ones[shape.fractal * FRACTAL_K..], self.ones.len(), 1, extent.k());
        let found = self.weight.verify_tile(self.x2, t)?;
        let mut acc = Accumulators::new(sums, geometry.tile_columns(), 1, extent.columns());
        let ok = match self.weight.tile(self.x2, t)? {
            _ if !symbols.is_empty() => {
                let out = &mut symbols[shape.fractal * FRACTAL..];
                let stride = geometry.padded_k() * PANEL;
                decode_tile(self.weight, self.code, self.kernel, self.x2, t, out, stride)?
            }
            Tile::Coded(tile) => {
                let code = self.code.expect("a coded tile has a code");
                let tile = CodedTile { counts: Some(&found), ..tile };
                self.kernel.tile().multiply_coded(code, &tile, extent, rows, &mut acc)
            }
            Tile::Raw(raw) => {
                self.kernel.tile().multiply(raw, extent, rows, &mut acc);
                true
            }
            Tile::Constant(symbol) => {
                let one = rows.data()[..extent.k()].iter().map(|&v| i32::from(v)).sum::<i32>();
                let sum = i32::from(symbol).wrapping_mul(one);
                sums.iter_mut().for_each(|s| *s = s.wrapping_add(sum));
                true
            }
        };
        if ok { Ok(found) } else { Err(refusal(self.weight, self.x2, t)) }
    }
}
