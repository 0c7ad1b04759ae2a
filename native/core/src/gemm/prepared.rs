//! A weight made ready for many multiplications.

use super::activation::{Packed, SHIFT};
use super::call::ZeroPoint;
use super::room::{DecodedBytes, Room};
use crate::aligned::Aligned;
use crate::arch::{
    Accumulators, ByteRows, Coded, Extent, Multiplier, PIECE_K, PanelSteps, Scratch, Symbols, TileCode, TileKernel,
    Workspace,
};
use crate::codec::WeightType;
use crate::codec::decode::CodedTile;
use crate::container::{CompressedWeight, Tile};
use crate::decoder::{Bound, Decoder, Tiles};
use crate::decompress::each;
use crate::dispatch::Kernel;
use crate::error::{Error, with_room};
use crate::geometry::{FRACTAL, FRACTAL_K, Geometry, PANEL, TileShape};
use crate::parallel::{Parallel, Scoped, run_all};
use crate::shared::Shared;
use std::sync::{Mutex, PoisonError};

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
    decoder: Decoder,
    pub(super) column_sums: Vec<i32>,
    /// Symbols in panels that reach over all of k, in each in kernel order.
    decoded: Option<DecodedBytes>,
    /// Whether their sign bits are turned over.
    signed: bool,
    /// How the kernel multiplies each panel of those, if there is something to say.
    steps: Vec<PanelSteps>,
    /// Whether that says of most that products of bytes are exact.
    narrow: bool,
}

/// Bytes that are fetched before a multiplication: the first tile, about.
const PREFETCHED: usize = 24 << 10;

/// Weights below this are checked by the calling thread alone.
const PARALLEL_FROM: usize = 4 << 20;

/// Bytes of rows of decoded weights that are worth a task.
const ROWS_PER_TASK: usize = 1 << 18;

/// Threads for what is done once with a weight of this size.
fn pool(geometry: &Geometry, threads: usize) -> Scoped {
    Scoped(if geometry.k() * geometry.n() < PARALLEL_FROM { 1 } else { threads })
}

/// The sign bit of a symbol.
const SIGN: u8 = 0x80;

/// Whether products with uint8 activations saturate.
fn saturates(weight_type: WeightType, kernel: Kernel) -> bool {
    weight_type == WeightType::I8 && kernel.saturates()
}

impl PreparedWeight {
    /// Checks all three tensors, every checksum and every code word, and sums the columns.
    pub fn new(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, Error> {
        Self::new_in(x2, index, info, options, &|_| None)
    }

    /// As [`Self::new`]; what is decoded is where `room` gives room for so many bytes, if it does.
    pub fn new_in(
        x2: &[u8],
        index: &[u8],
        info: &[i64],
        options: PrepareOptions,
        room: &dyn Fn(usize) -> Option<Box<dyn Room>>,
    ) -> Result<Self, Error> {
        let decoder = Decoder::new(CompressedWeight::parse(x2, index, info)?, options.kernel);
        let signed = options.residency == Residency::Decoded && options.kernel.tile().of_bytes().is_some();
        let mut prepared =
            Self { decoder, column_sums: Vec::new(), decoded: None, signed, steps: Vec::new(), narrow: false };
        prepared.check(x2, options, room)?;
        prepared.narrow =
            options.kernel.tile().of_bytes().is_some_and(|kernel| signed && kernel.suits(&prepared.steps));
        if prepared.signed && !prepared.narrow && !saturates(prepared.weight_type(), options.kernel) {
            prepared.turn_over_again();
        }
        if let Some(decoded) = &mut prepared.decoded {
            decoded.settle();
        }
        Ok(prepared)
    }

    /// Length of a dot product.
    pub fn k(&self) -> usize {
        self.geometry().k()
    }
    /// Output columns.
    pub fn n(&self) -> usize {
        self.geometry().n()
    }
    /// Type of the weights.
    pub fn weight_type(&self) -> WeightType {
        self.decoder.weight().weight_type()
    }
    /// The kernel that runs.
    pub fn kernel(&self) -> Kernel {
        self.decoder.kernel()
    }
    /// What multiplies activations that are packed with this shift.
    pub(super) fn products(&self, shift: i32) -> &'static dyn Multiplier {
        let kernel = self.tile_kernel(shift);
        match (self.signed, self.narrow && !kernel.saturates()) {
            (true, true) => kernel.of_bytes().expect("as it was prepared for"),
            (true, false) => kernel.of_signed().expect("as the others"),
            (false, _) => kernel,
        }
    }
    /// What multiplies them while it decodes, if the weight is compressed.
    pub(super) fn while_decoding(&self, shift: i32) -> Option<&'static dyn TileKernel> {
        (!self.is_decoded()).then(|| self.tile_kernel(shift))
    }
    fn tile_kernel(&self, shift: i32) -> &'static dyn TileKernel {
        let kernel = self.kernel();
        if shift == SHIFT && saturates(self.weight_type(), kernel) { kernel.products() } else { kernel.tile() }
    }
    /// Whether activations that are packed with this shift are multiplied as the uint8 that they are.
    pub(crate) fn multiplies_bytes(&self, shift: i32) -> bool {
        shift == SHIFT && self.products(shift).rows().multiplies_bytes()
    }
    /// Whether rows of such activations are multiplied where they are.
    pub(crate) fn multiplies_in_place(&self, shift: i32) -> bool {
        self.is_decoded()
            && self.multiplies_bytes(shift)
            && self.k().is_multiple_of(self.products(shift).rows().bytes_multiple())
    }
    /// Whether the sums of rows that are multiplied so are needed: unless the zero point is where the sign of a byte changes.
    pub(super) fn needs_sums(&self, w_zero_point: ZeroPoint<'_>) -> bool {
        !w_zero_point.is(SHIFT - self.weight_type().offset())
    }

    /// Takes back that sign bits are turned over.
    fn turn_over_again(&mut self) {
        self.decoded.iter_mut().for_each(|symbols| symbols.iter_mut().for_each(|symbol| *symbol ^= SIGN));
        (self.signed, self.steps) = (false, Vec::new());
    }
    pub(super) fn geometry(&self) -> &Geometry {
        self.decoder.geometry()
    }
    pub(super) fn code(&self) -> Option<&TileCode> {
        self.decoder.code()
    }

    /// Whether this weight is decoded from just what these three tensors hold, which are checked as [`Self::new`] does it:
    /// then it serves for them as well. Takes as long as to decode them, and no memory for that.
    pub fn is_of(&self, x2: &[u8], index: &[u8], info: &[i64], threads: usize) -> Result<bool, Error> {
        let decoder = Decoder::new(CompressedWeight::parse(x2, index, info)?, self.kernel());
        let Some(own) = &self.decoded else { return Ok(false) };
        if decoder.geometry() != self.geometry() || decoder.weight().weight_type() != self.weight_type() {
            return Ok(false);
        }
        let (geometry, tiles) = (self.geometry(), decoder.tiles(x2));
        let sign = if self.signed { SIGN } else { 0 };
        let same = |t: usize| -> Result<bool, Error> {
            tiles.verify(t)?;
            let (shape, panel) = (geometry.tile(t), tiles.extent(t).panel());
            let own = &own[self.decoded_start(&shape) + shape.fractal * FRACTAL..];
            Workspace::with(|workspace| {
                tiles.with_symbols(t, workspace, |symbols| {
                    let own = own.chunks(geometry.padded_k() * PANEL);
                    symbols.chunks(panel).zip(own).all(|(symbols, own)| {
                        symbols.iter().zip(&own[..panel]).all(|(symbol, own)| symbol ^ sign == *own)
                    })
                })
            })
        };
        let found = Mutex::new(Ok(true));
        pool(geometry, threads).run(geometry.tiles(), &|t| {
            let one = same(t);
            let mut all = found.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!((&*all, &one), (Ok(true), Ok(false)) | (Ok(_), Err(_))) {
                *all = one;
            }
        });
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many columns are whole strips of tiles.
    pub(crate) fn has_whole_strips(&self, columns: usize) -> bool {
        columns.is_multiple_of(self.geometry().tile_columns())
    }

    /// Whether it stays decoded.
    pub(crate) fn is_decoded(&self) -> bool {
        self.decoded.is_some()
    }

    /// Together with the bytes that it was made from; a decoded weight does without them.
    pub fn bind<'a>(&'a self, x2: &'a [u8]) -> Result<Bound<'a, Self>, Error> {
        if self.decoded.is_none() {
            self.decoder.tiles(x2).check_len()?;
        }
        Ok(Bound { weight: self, x2 })
    }

    /// Where the decoded symbols of the strip that tile `shape` is in begin.
    fn decoded_start(&self, shape: &TileShape) -> usize {
        shape.panel * PANEL * self.geometry().padded_k()
    }

    /// The symbols of the strip that tile `shape` is in, and what is behind them, if they stay decoded.
    pub(super) fn decoded(&self, shape: &TileShape) -> Option<Symbols<'_>> {
        let bytes = &self.decoded.as_ref()?[..];
        Some(Symbols { bytes, steps: &self.steps }.panels_from(shape.panel, PANEL * self.geometry().padded_k()))
    }

    /// Verifies every tile; fills column sums and, if asked for, the decoded symbols.
    fn check(
        &mut self,
        x2: &[u8],
        options: PrepareOptions,
        room: &dyn Fn(usize) -> Option<Box<dyn Room>>,
    ) -> Result<(), Error> {
        let geometry = *self.decoder.geometry();
        // One where k is real, zero in the padding: a product with it is the column sum.
        let kernel = self.decoder.kernel().tile().rows();
        let (width, len) = (kernel.width(), geometry.padded_k());
        let mut ones = with_room(len.saturating_mul(width), "a row of activations")?;
        ones.resize(len * width, 1i8);
        ones[len * (width - 1) + geometry.k()..].fill(0);
        kernel.finish(&mut ones);
        let ones = Packed { data: &ones, sums: &[], stride: ones.len(), k: ones.len() / width, width, pieces: None };
        let mut column_sums = with_room(geometry.tiles_n().saturating_mul(geometry.tile_columns()), "column sums")?;
        let mut decoded = match options.residency {
            Residency::Decoded => DecodedBytes::new(geometry.padded_n() * geometry.padded_k(), room)?,
            Residency::Compressed => DecodedBytes::default(),
        };
        let check = Check { decoder: &self.decoder, tiles: self.decoder.tiles(x2), ones, signed: self.signed };
        // The decoded symbols of each strip, or nothing.
        let mut symbols = decoded.chunks_mut(geometry.tiling().n * geometry.padded_k() * PANEL);
        let mut strips = with_room(geometry.tiles_n(), "strips")?;
        strips.extend((0..geometry.tiles_n()).map(|_| {
            let symbols: &mut [u8] = symbols.next().unwrap_or_default();
            Mutex::new((symbols, Ok(Checked::default())))
        }));
        pool(&geometry, options.threads).run(geometry.tiles_n(), &|tn| {
            let mut guard = strips[tn].lock().expect("no panics above");
            let (symbols, found) = &mut *guard;
            *found = Workspace::with(|workspace| check.strip(tn, symbols, &mut workspace.scratch));
        });
        let len = geometry.tiles().saturating_mul(self.decoder.weight().counts_of_a_tile());
        let mut counts = with_room(len, "counts of tiles")?;
        let panels = if self.signed { geometry.padded_n() / PANEL } else { 0 };
        let mut steps = with_room(panels, "steps of panels")?;
        for strip in strips {
            let found = strip.into_inner().expect("no panics above").1?;
            column_sums.extend(found.sums);
            counts.extend(found.counts);
            steps.extend(found.steps);
        }
        if !steps.iter().all(PanelSteps::is_empty) {
            self.steps = steps;
        }
        column_sums.truncate(geometry.n());
        self.column_sums = column_sums;
        if options.residency == Residency::Compressed {
            self.decoder.remember_counts(counts);
        }
        self.decoded = (options.residency == Residency::Decoded).then_some(decoded);
        Ok(())
    }
}

impl<'a> Bound<'a, PreparedWeight> {
    pub(super) fn tiles(&self) -> Tiles<'a> {
        self.weight.decoder.tiles(self.x2)
    }

    /// Writes all weights, of whichever type they are, row by row; gives the distance of rows. Rows and their elements are whole
    /// fractals: what stands for no weight is there as well.
    pub(crate) fn write_rows(&self, out: &mut Aligned<u8>, pool: &dyn Parallel) -> Result<usize, Error> {
        let (geometry, tiles, kernel) = (self.geometry(), self.tiles(), self.kernel().tile().rows());
        let stride = geometry.padded_k();
        let len = geometry.padded_n().saturating_mul(stride);
        out.reset(len, "the weights of a convolution")?;
        let out = Shared::new(&mut out[..]);
        let flip = self.weight_type().flip();
        let write = |symbols: &[u8], panel: usize, fractal: usize, flip| {
            let at = out.at(panel * PANEL * stride, PANEL * stride);
            assert!(fractal * FRACTAL_K + symbols.len() / PANEL <= stride, "inside of the row");
            // SAFETY: a panel has 16 rows, which have room for so many fractals behind the first, and nobody else writes these.
            unsafe { kernel.write_rows(symbols, ByteRows::nearby(at.add(fractal * FRACTAL_K), stride, flip)) };
        };
        if let Some(decoded) = &self.weight.decoded {
            let flip = if self.signed { flip ^ SIGN } else { flip };
            let panels = decoded.len() / (stride * PANEL);
            let tasks = (len / ROWS_PER_TASK).clamp(1, pool.threads());
            run_all(pool, tasks, |task| {
                for panel in panels * task / tasks..panels * (task + 1) / tasks {
                    write(&decoded[panel * stride * PANEL..][..stride * PANEL], panel, 0, flip);
                }
                Ok(())
            })?;
            return Ok(stride);
        }
        each(geometry, geometry.tiles(), pool, |t, workspace| {
            let (shape, panel) = (geometry.tile(t), tiles.extent(t).panel());
            tiles.with_symbols(t, workspace, |symbols| {
                let panels = symbols.chunks_exact(panel).enumerate();
                panels.for_each(|(p, symbols)| write(symbols, shape.panel + p, shape.fractal, flip));
            })
        })?;
        Ok(stride)
    }

    /// Has the processor fetch what a multiplication begins with, while the caller still prepares it. Decoded symbols are
    /// read faster than they are fetched this way.
    pub fn prefetch(&self) {
        if self.decoded.is_none() {
            self.kernel().tile().prefetch(&self.x2[..self.x2.len().min(PREFETCHED)]);
        }
    }
}

/// What all threads know that check a weight.
struct Check<'a> {
    decoder: &'a Decoder,
    tiles: Tiles<'a>,
    /// A row of activations: one where k is real.
    ones: Packed<'a>,
    /// Whether sign bits of symbols that stay decoded are turned over.
    signed: bool,
}

/// What is known of a strip once it is checked.
#[derive(Default)]
struct Checked {
    /// Of its columns.
    sums: Vec<i32>,
    /// Of each tile, as [`CompressedWeight::verify_tile`] gives them.
    counts: Vec<u16>,
    /// Of each panel, if there are any.
    steps: Vec<PanelSteps>,
}

impl Check<'_> {
    /// Checks a strip; its symbols go where there is room for them.
    fn strip(&self, tn: usize, symbols: &mut [u8], scratch: &mut Scratch) -> Result<Checked, Error> {
        let geometry = self.decoder.geometry();
        let counts_of_a_tile = self.decoder.weight().counts_of_a_tile();
        let mut sums = with_room(geometry.tile_columns(), "column sums of a strip")?;
        sums.resize(geometry.tile_columns(), 0);
        let mut steps = Vec::new();
        let len = geometry.tiles_k().saturating_mul(counts_of_a_tile);
        let mut counts = with_room(len, "counts of a strip's tiles")?;
        for tk in 0..geometry.tiles_k() {
            let found = self.tile(tn * geometry.tiles_k() + tk, symbols, &mut sums, scratch)?;
            counts.extend(found);
            counts.resize((tk + 1) * counts_of_a_tile, 0);
        }
        if !symbols.is_empty() {
            let panel = geometry.padded_k() * PANEL;
            let extent = Extent::new(symbols.len() / panel, panel / FRACTAL);
            let rows = self.ones.rows(0..1, 0, extent);
            let mut acc = Accumulators::new(&mut sums, geometry.tile_columns(), 1, extent.columns());
            let decoded: &[u8] = symbols;
            self.decoder.kernel().tile().multiply(decoded.into(), extent, rows, &mut acc, scratch)?;
            if self.signed {
                let kernel = self.decoder.kernel().tile().of_bytes().expect("a kernel of signed symbols has it");
                symbols.iter_mut().for_each(|symbol| *symbol ^= SIGN);
                steps = with_room(extent.panels(), "steps of a strip")?;
                // Blocks that are padding as a whole are left out: no activation stands for anything there.
                let real = geometry.k().next_multiple_of(PIECE_K) * PANEL;
                for panel in symbols.chunks_exact(panel) {
                    steps.push(kernel.steps(&panel[..real])?);
                }
            }
        }
        Ok(Checked { sums, counts, steps })
    }

    /// Checks tile `t` and decodes it to its strip's symbols or, where there is no room for them, adds its columns to `sums`.
    /// Gives its counts.
    fn tile(&self, t: usize, symbols: &mut [u8], sums: &mut [i32], scratch: &mut Scratch) -> Result<Vec<u16>, Error> {
        let (geometry, kernel) = (self.decoder.geometry(), self.decoder.kernel().tile());
        let fractal = geometry.tile(t).fractal;
        let found = self.tiles.verify(t)?;
        if !symbols.is_empty() {
            let out = &mut symbols[fractal * FRACTAL..];
            self.tiles.decode(t, out, geometry.padded_k() * PANEL, scratch)?;
            return Ok(found);
        }
        let extent = self.tiles.extent(t);
        let rows = self.ones.rows(0..1, fractal, extent);
        let mut acc = Accumulators::new(sums, geometry.tile_columns(), 1, extent.columns());
        self.tiles.with_tile(t, scratch, |tile, scratch| {
            match tile {
                Tile::Coded(tile) => {
                    let code = self.decoder.code().expect("a coded tile has a code");
                    let tile = CodedTile { counts: Some(&found), ..tile };
                    let result = kernel.multiply_coded(Coded { code, tile: &tile, extent }, rows, &mut acc, scratch);
                    result.map_err(|why| self.tiles.refusal(t, why))?;
                }
                Tile::Raw(raw) => kernel.multiply(raw.into(), extent, rows, &mut acc, scratch)?,
                Tile::Constant(symbol) => {
                    let sum = kernel.multiply_constant(&rows.data()[..extent.k() * self.ones.width], symbol);
                    acc.data().iter_mut().for_each(|s| *s = s.wrapping_add(sum));
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}
