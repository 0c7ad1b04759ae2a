//! What a kernel can do.

use super::operands::{Accumulators, ByteRows, Coded, Extent, PanelSteps, Rows, Symbols};
use super::output::Output;
use super::pairs::{self, ByteRuns};
use super::rows::{self, ActivationRow, Panels, Terms, WeightedRuns};
use super::workspace::Scratch;
use crate::codec::WeightType;
use crate::codec::decode::Undecoded;
use crate::dequantize::{Channels, dequantize};
use crate::error::Error;
use crate::geometry::FRACTAL_K;
use crate::quantize::{Quantizer, Range};
use crate::transpose::{Matrix, transpose};
use std::mem::MaybeUninit;

/// Why a kernel gives no result for a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It does not decode as its lengths say. Where exactly, kernels do not look: the reference decoder finds the reason.
    Damaged,
    /// See there.
    NoMemory(NoMemory),
}

/// What a kernel needs by itself cannot be allocated: so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory(usize);

impl From<NoMemory> for Refused {
    fn from(why: NoMemory) -> Self {
        Self::NoMemory(why)
    }
}

impl From<Undecoded> for Refused {
    fn from(why: Undecoded) -> Self {
        match why {
            Undecoded::Damaged(_) => Self::Damaged,
            Undecoded::NoMemory(bytes) => NoMemory(bytes).into(),
        }
    }
}

impl From<NoMemory> for Error {
    fn from(NoMemory(bytes): NoMemory) -> Self {
        Self::Memory { what: "what the kernel needs", bytes }
    }
}

/// Makes memory that a thread keeps from tile to tile `len` elements long.
pub fn resize<T: Clone>(memory: &mut Vec<T>, len: usize, value: T) -> Result<(), NoMemory> {
    let more = len.saturating_sub(memory.len());
    memory.try_reserve_exact(more).map_err(|_| NoMemory(len.saturating_mul(size_of::<T>())))?;
    memory.resize(len, value);
    Ok(())
}

/// Products of activations and symbols in memory. Symbols are unsigned, packed activations signed; sums are exact int32 and wrap,
/// unless the kernel [saturates](Multiplier::saturates). Rows are given as the kernel's own [`RowKernel::finish`] leaves them.
///
/// Every method is safe to call with any bytes.
pub trait Multiplier: Sync {
    /// Architecture, operand types, instruction set.
    fn name(&self) -> &'static str;

    /// Does a thread's part of the work, many calls of the methods below, between what the kernel has to do before and
    /// after. Outside of it each call does that for itself.
    fn within(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// Rows of a block whose sums stay in the first cache: a multiple of the rows that are multiplied at a time.
    fn block_rows(&self) -> usize {
        24
    }

    /// Adds the products of symbols in kernel order.
    fn multiply(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), NoMemory>;

    /// Multiplies symbols of panels that reach over all of k and does the epilogue before the sums are in memory. Where the
    /// kernel has no such way for this block, nothing is done and the answer is `false`.
    ///
    /// # Panics
    /// If operands, terms and output are not of one extent.
    fn multiply_epilogue(
        &self,
        _symbols: Symbols<'_>,
        _extent: Extent,
        _rows: Rows<'_>,
        _terms: &Terms<'_>,
        _out: &mut Output<'_>,
    ) -> bool {
        false
    }

    /// Rows and panels of which it is best to give [`Self::multiply_epilogue`] multiples, where it takes any number of panels, and not
    /// four alone.
    fn epilogue_tile(&self) -> Option<(usize, usize)> {
        None
    }

    /// Whether products saturate, as those of `vpmaddubsw` do: then what is summed up is sat16(x₀w₀ + x₁w₁) over all pairs of
    /// neighbours along k, of [bytes](Self::sums_bytes).
    fn saturates(&self) -> bool {
        false
    }

    /// Whether what is summed up is not symbol · packed activation but w · x, of weights w = symbol − 128 and activations
    /// x = packed + 128: where products saturate, and where bytes are multiplied as they are.
    fn sums_bytes(&self) -> bool {
        self.saturates() || self.rows().multiplies_bytes()
    }

    /// Whether a weight whose panels have these [steps](Self::steps) suits a kernel that is another's [`of_bytes`](TileKernel::of_bytes).
    fn suits(&self, _steps: &[PanelSteps]) -> bool {
        false
    }

    /// How a panel of symbols that it is [the kernel of](TileKernel::of_signed) is multiplied soonest.
    fn steps(&self, _panel: &[u8]) -> Result<PanelSteps, Error> {
        Ok(PanelSteps::default())
    }

    /// Its work on rows.
    fn rows(&self) -> &dyn RowKernel;
}

impl std::fmt::Debug for dyn Multiplier + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Decoding of one tile, and products of what is just being decoded. For symbols that stay decoded it may have other kernels
/// ([`Self::of_signed`], [`Self::of_bytes`]).
///
/// Every method is safe to call with any bytes: where a tile is [`Refused`], the output is unspecified.
pub trait TileKernel: Multiplier {
    /// Rows up to which [`Self::multiply_coded`] is the better way; more are multiplied from decoded strips.
    fn fused_rows(&self) -> usize;

    /// Asks for bytes to be brought into a cache.
    fn prefetch(&self, _bytes: &[u8]) {}

    /// Decodes a coded tile into kernel order, its panels `stride` bytes apart.
    ///
    /// # Panics
    /// If the tile does not fit.
    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused>;

    /// Decodes a coded tile, and writes its symbols as [`RowKernel::write_rows`] does: panel p from row 16 p on. Where the kernel
    /// has no such way, nothing is done and the answer is `None`.
    ///
    /// # Safety
    /// 16 rows for each panel, of 32 bytes for each fractal, can be written.
    unsafe fn decode_rows(&self, _: Coded<'_>, _: ByteRows, _: &mut Scratch) -> Option<Result<(), Refused>> {
        None
    }

    /// Adds the products of a coded tile.
    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused>;

    /// The product of a row of activations, as [`RowKernel::finish`] leaves it, and the same symbol all along it.
    fn multiply_constant(&self, row: &[i8], symbol: u8) -> i32 {
        multiply_constant(row, symbol)
    }

    /// Whether it multiplies by a compressed weight sooner than memory gives the plain one: a few gigabytes a second are not
    /// enough for that.
    fn outpaces_memory(&self) -> bool {
        true
    }

    /// The same kernel with products that saturate, if it has them.
    fn saturating(&self) -> Option<&'static dyn TileKernel> {
        None
    }

    /// The same kernel for symbols with their sign bits turned over, int8 as int8 weights are, if it multiplies by them sooner.
    /// What is decoded is as ever.
    fn of_signed(&self) -> Option<&'static dyn Multiplier> {
        None
    }

    /// The kernel with exact products of bytes, uint8 activations as they are and symbols with their sign bits turned over, if there
    /// is one: sooner where the weight [suits](Multiplier::suits) it, else [`Self::of_signed`] is.
    fn of_bytes(&self) -> Option<&'static dyn Multiplier> {
        None
    }
}

impl std::fmt::Debug for dyn TileKernel + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The product of a packed row and the same symbol all along it.
pub fn multiply_constant(row: &[i8], symbol: u8) -> i32 {
    let sum = row.iter().map(|&x| i32::from(x)).fold(0, i32::wrapping_add);
    sum.wrapping_mul(symbol.into())
}

/// Work on whole rows, around the products: plain loops, unless the kernel has its own.
pub trait RowKernel: Sync {
    /// The range of `x`, as [`Range::of`].
    fn range(&self, x: &[f32]) -> Range {
        Range::of(x)
    }

    /// Quantises `x`, as [`Quantizer::quantize`].
    ///
    /// # Panics
    /// If the lengths differ.
    fn quantize<'a>(&self, by: Quantizer, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
        by.quantize(x, out)
    }

    /// Writes the transpose of `from`, as [`transpose`].
    ///
    /// # Panics
    /// As [`transpose`].
    fn transpose_words(&self, from: Matrix<'_, u32>, to: &mut [MaybeUninit<u32>]) {
        transpose(from, to);
    }

    /// Writes the symbols of a panel, whole fractals, as rows: the 32 of row i in fractal f from byte 32 f of that row on.
    ///
    /// # Safety
    /// 16 rows of 32 bytes for each fractal can be written.
    unsafe fn write_rows(&self, panel: &[u8], to: ByteRows) {
        // SAFETY: the caller's contract.
        unsafe { rows::write_rows(panel, to) }
    }

    /// Writes the symbols of panels as columns: the 16 of panel p at place l along k from byte 16 p of row l on.
    ///
    /// # Safety
    /// 4 rows for each group of a panel, of 16 bytes for each panel, can be written.
    unsafe fn write_columns(&self, panels: Panels<'_>, to: ByteRows) {
        // SAFETY: the caller's contract.
        unsafe { rows::write_columns(panels, to) }
    }

    /// Makes floats of weights, as [`dequantize`].
    ///
    /// # Panics
    /// If the lengths differ.
    fn dequantize(
        &self,
        weights: &[u8],
        weight_type: WeightType,
        channels: Channels<'_>,
        at: usize,
        out: &mut [MaybeUninit<f32>],
    ) {
        dequantize(weights, weight_type, channels, at, out);
    }

    /// Packs a row of activations; its sum.
    fn pack(&self, from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
        rows::pack(from, to)
    }

    /// Sums of rows of uint8 activations where they lie, as [`rows::sums`].
    ///
    /// # Panics
    /// If rows have fewer than k; or pieces, of which k is not a multiple.
    fn sums(&self, rows: Rows<'_>, k: usize, sums: &mut [i32]) {
        rows::sums(rows, k, sums);
    }

    /// What does not depend on the row, as [`rows::column_terms`].
    fn column_terms(&self, sums: &[i32], factor: i32, base: i32, terms: &mut [i32]) {
        rows::column_terms(sums, factor, base, terms);
    }

    /// Sums of runs, as [`rows::weighted_sums`].
    ///
    /// # Panics
    /// As there.
    fn weighted_sums(&self, base: i32, runs: WeightedRuns<'_>, sums: &mut [i32]) {
        rows::weighted_sums(base, runs, sums);
    }

    /// Whether products of 16-bit numbers in [pairs](pairs::pair_sums) are what exact ones of bytes are made of.
    fn multiplies_pairs(&self) -> bool {
        false
    }

    /// Runs of bytes as pairs of numbers, as [`pairs::pair`].
    ///
    /// # Panics
    /// As there.
    fn pair(&self, runs: ByteRuns<'_>, positions: std::ops::Range<usize>, to: &mut [i16]) {
        pairs::pair(runs, positions, to);
    }

    /// Sums of pairs, as [`pairs::pair_sums`].
    ///
    /// # Panics
    /// As there.
    fn pair_sums(&self, of: &[i16], factors: &[i16], bases: &[i32], sums: &mut [i32]) {
        pairs::pair_sums(of, factors, bases, sums);
    }

    /// Sums as floats, as [`rows::scaled`].
    ///
    /// # Panics
    /// As there.
    fn scaled(&self, sums: &[i32], scale: f32, addend: Option<f32>, to: &mut [MaybeUninit<f32>]) {
        rows::scaled(sums, scale, addend, to);
    }

    /// Bytes of an activation as it is multiplied.
    fn width(&self) -> usize {
        1
    }

    /// Whether uint8 activations are multiplied as they are: rows of them need not be packed where nobody asks for their sums.
    fn multiplies_bytes(&self) -> bool {
        false
    }

    /// What the length of rows of uint8 activations has to be a multiple of, for them to be multiplied where they are.
    fn bytes_multiple(&self) -> usize {
        FRACTAL_K
    }

    /// Makes a packed row of whole fractals, which is in the last bytes of `row`, what is multiplied; its bytes are as many as
    /// [`Self::width`] says.
    fn finish(&self, _row: &mut [i8]) {}

    /// Makes the outputs of a block of its sums, whose rows are `stride` apart.
    fn epilogue(&self, sums: &[i32], stride: usize, terms: &Terms<'_>, out: Output<'_>) {
        rows::epilogue(sums, stride, terms, out, rows::to_halves);
    }
}

/// Methods of [`RowKernel`] that are functions, each compiled with features that `self` proves the processor to have.
macro_rules! row_operations {
    ($($operation:ident: $function:path),* $(,)?) => { $(
        $crate::arch::kernel::row_operations!(@$operation $function);
    )* };
    (@range $function:path) => {
        fn range(&self, x: &[f32]) -> $crate::quantize::Range {
            // SAFETY: `self` proves the features.
            unsafe { $function(x) }
        }
    };
    (@quantize $function:path) => {
        fn quantize<'a>(
            &self,
            by: $crate::quantize::Quantizer,
            x: &[f32],
            out: &'a mut [std::mem::MaybeUninit<u8>],
        ) -> &'a mut [u8] {
            // SAFETY: `self` proves the features.
            unsafe { $function(by, x, out) }
        }
    };
    (@transpose_words $function:path) => {
        fn transpose_words(&self, from: $crate::transpose::Matrix<'_, u32>, to: &mut [std::mem::MaybeUninit<u32>]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(from, to) }
        }
    };
    (@write_rows $function:path) => {
        unsafe fn write_rows(&self, panel: &[u8], to: $crate::arch::operands::ByteRows) {
            // SAFETY: `self` proves the features, and the caller answers for the rest.
            unsafe { $function(panel, to) }
        }
    };
    (@write_columns $function:path) => {
        unsafe fn write_columns(
            &self,
            panels: $crate::arch::rows::Panels<'_>,
            to: $crate::arch::operands::ByteRows,
        ) {
            // SAFETY: `self` proves the features, and the caller answers for the rest.
            unsafe { $function(panels, to) }
        }
    };
    (@dequantize $function:path) => {
        fn dequantize(
            &self,
            weights: &[u8],
            weight_type: $crate::codec::WeightType,
            channels: $crate::dequantize::Channels<'_>,
            at: usize,
            out: &mut [std::mem::MaybeUninit<f32>],
        ) {
            // SAFETY: `self` proves the features.
            unsafe { $function(weights, weight_type, channels, at, out) }
        }
    };
    (@pack $function:path) => {
        fn pack(&self, from: $crate::arch::rows::ActivationRow<'_>, to: &mut [i8]) -> i32 {
            // SAFETY: `self` proves the features.
            unsafe { $function(from, to) }
        }
    };
    (@sums $function:path) => {
        fn sums(&self, rows: $crate::arch::operands::Rows<'_>, k: usize, sums: &mut [i32]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(rows, k, sums) }
        }
    };
    (@column_terms $function:path) => {
        fn column_terms(&self, sums: &[i32], factor: i32, base: i32, terms: &mut [i32]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(sums, factor, base, terms) }
        }
    };
    (@weighted_sums $function:path) => {
        fn weighted_sums(&self, base: i32, runs: $crate::arch::rows::WeightedRuns<'_>, sums: &mut [i32]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(base, runs, sums) }
        }
    };
    (@pair $function:path) => {
        fn pair(&self, runs: $crate::arch::pairs::ByteRuns<'_>, positions: std::ops::Range<usize>, to: &mut [i16]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(runs, positions, to) }
        }
    };
    (@pair_sums $function:path) => {
        fn pair_sums(&self, of: &[i16], factors: &[i16], bases: &[i32], sums: &mut [i32]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(of, factors, bases, sums) }
        }
    };
    (@scaled $function:path) => {
        fn scaled(&self, sums: &[i32], scale: f32, addend: Option<f32>, to: &mut [std::mem::MaybeUninit<f32>]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(sums, scale, addend, to) }
        }
    };
    (@finish $function:path) => {
        fn finish(&self, row: &mut [i8]) {
            // SAFETY: `self` proves the features.
            unsafe { $function(row) }
        }
    };
    (@epilogue $function:path) => {
        fn epilogue(
            &self,
            sums: &[i32],
            stride: usize,
            terms: &$crate::arch::rows::Terms<'_>,
            out: $crate::arch::output::Output<'_>,
        ) {
            // SAFETY: `self` proves the features.
            unsafe { $function(sums, stride, terms, out) }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use row_operations;
