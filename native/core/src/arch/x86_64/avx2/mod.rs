//! AVX2 with BMI1, BMI2 and POPCNT (Haswell and later; bit deposits are slow before Zen 3).
//!
//! AVX2 can neither expand bytes by a mask nor look bytes up across 16 of them, so the work is cut differently from
//! the AVX-512 kernel's: what a continued weight gains is not a byte but a number in *bit planes*, for bits are what
//! BMI2 expands, 64 at a time.
//!
//! `planes` has those of a tile's continued weights, `symbols` what becomes of root fields, `decode` the passes over a panel,
//! `products` the multiplications.

mod decode;
mod group;
mod planes;
mod products;
pub(super) mod rows;
mod symbols;
mod vectors;

use crate::arch::feature::Feature;
use crate::arch::kernel::{Damaged, TileKernel};
use crate::arch::operands::{Accumulators, Extent, Rows, TileCode};
use crate::arch::output::Output;
use crate::arch::rows::{ActivationRow, Terms};
use crate::arch::workspace::Scratch;
use crate::codec::WeightType;
use crate::codec::decode::CodedTile;
use crate::dequantize::Along;
use crate::geometry::PANEL;
use crate::quantize::{Quantizer, Range};
use crate::transpose::Matrix;
use decode::{Memory, decode_panels};
use products::{multiply_panel, widen};
use std::mem::MaybeUninit;

/// Rows up to which a panel is multiplied as soon as it is decoded; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Proof that the processor has the instructions.
#[derive(Debug)]
pub struct Avx2(());

impl Avx2 {
    /// What it needs.
    pub const NEEDS: &[Feature] = &[Feature::Avx2, Feature::Bmi1, Feature::Bmi2, Feature::Popcnt, Feature::F16c];

    /// # Safety
    /// The processor has all of [`Self::NEEDS`].
    pub const unsafe fn assume() -> Self {
        Self(())
    }
}

impl TileKernel for Avx2 {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx2"
    }

    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn decode(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        out: &mut [u8],
        stride: usize,
        scratch: &mut Scratch,
    ) -> Result<(), Damaged> {
        // SAFETY: `self` proves the features.
        unsafe {
            decode_panels(code, tile, extent, scratch.of(), |p, symbols, _| {
                out[p * stride..][..symbols.len()].copy_from_slice(symbols);
            })
        }
    }

    fn multiply_coded(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Damaged> {
        let (stride, memory) = (acc.stride(), scratch.of::<Memory>());
        // SAFETY: `self` proves the features.
        unsafe {
            widen(&rows, extent.k(), &mut memory.x);
            decode_panels(code, tile, extent, memory, |p, symbols, x| {
                multiply_panel(symbols, x, &mut acc.data()[p * PANEL..], stride);
            })
        }
    }

    fn multiply(
        &self,
        symbols: &[u8],
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) {
        let (stride, memory) = (acc.stride(), scratch.of::<Memory>());
        // SAFETY: `self` proves the features.
        unsafe {
            widen(&rows, extent.k(), &mut memory.x);
            for (p, panel) in symbols[..extent.weights()].chunks_exact(extent.panel()).enumerate() {
                multiply_panel(panel, &memory.x, &mut acc.data()[p * PANEL..], stride);
            }
        }
    }

    fn range(&self, x: &[f32]) -> Range {
        // SAFETY: `self` proves the features.
        unsafe { rows::range(x) }
    }

    fn quantize<'a>(&self, by: Quantizer, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
        // SAFETY: `self` proves the features.
        unsafe { rows::quantize(by, x, out) }
    }

    fn transpose_words(&self, from: Matrix<'_, u32>, to: &mut [MaybeUninit<u32>]) {
        // SAFETY: `self` proves the features.
        unsafe { rows::transpose_words(from, to) }
    }

    unsafe fn write_rows(&self, panel: &[u8], flip: u8, out: *mut u8, stride: usize) {
        // SAFETY: `self` proves the features, and the caller answers for the rest.
        unsafe { rows::write_rows(panel, flip, out, stride) }
    }

    unsafe fn write_columns(&self, panel: &[u8], flip: u8, out: *mut u8, stride: usize) {
        // SAFETY: `self` proves the features, and the caller answers for the rest.
        unsafe { rows::write_columns(panel, flip, out, stride) }
    }

    fn dequantize(
        &self,
        weights: &[u8],
        weight_type: WeightType,
        scale: Along<'_>,
        zero_point: Along<'_>,
        out: &mut [MaybeUninit<f32>],
    ) {
        // SAFETY: `self` proves the features.
        unsafe { rows::dequantize(weights, weight_type, scale, zero_point, out) }
    }

    fn pack(&self, from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
        // SAFETY: `self` proves the features.
        unsafe { rows::pack(from, to) }
    }

    fn epilogue(&self, sums: &[i32], stride: usize, terms: &Terms<'_>, out: Output<'_>) {
        // SAFETY: `self` proves the features.
        unsafe { rows::epilogue(sums, stride, terms, out) }
    }
}
