//! AVX2 with BMI1, BMI2 and POPCNT (Haswell and later, Zen and later).
//!
//! AVX2 can neither expand bytes by a mask nor look bytes up across 16 of them, so the work is cut differently from
//! the AVX-512 kernel's: what a continued weight gains is not a byte but a number in *bit planes*, for bits are what
//! BMI2 expands, 64 at a time. Where its instruction for that is slow (before Zen 3), shifts and masks do the same.
//!
//! `deposits` has the two ways to expand bits, `planes` those of a tile's continued weights, `symbols` what becomes of root fields, `decode` the passes over a panel,
//! `products` the multiplications.

mod decode;
mod deposits;
mod group;
mod planes;
mod products;
pub(super) mod rows;
mod symbols;
mod vectors;

use crate::arch::feature::Feature;
use crate::arch::kernel::{NoMemory, Refused, RowKernel, TileKernel, row_operations};
use crate::arch::operands::{Accumulators, Coded, Extent, Rows};
use crate::arch::workspace::Scratch;
use crate::geometry::PANEL;
use decode::{Memory, decode_panels};
use products::{multiply_panel, prepare};
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

/// Rows up to which a panel is multiplied as soon as it is decoded; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Proof that the processor has the instructions; with PDEP or without, with exact products or such that saturate.
#[derive(Debug)]
pub struct Avx2<const PDEP: bool, const SATURATES: bool = false>(());

impl Avx2<true> {
    /// What makes this way the better one.
    pub const FAST: &[Feature] = &[Feature::FastDeposits];
}

impl<const PDEP: bool, const SATURATES: bool> Avx2<PDEP, SATURATES> {
    /// What it needs.
    pub const NEEDS: &[Feature] = &[Feature::Avx2, Feature::Bmi1, Feature::Bmi2, Feature::Popcnt, Feature::F16c];

    /// # Safety
    /// The processor has all of [`Self::NEEDS`].
    pub const unsafe fn assume() -> Self {
        Self(())
    }
}

impl<const PDEP: bool, const SATURATES: bool> TileKernel for Avx2<PDEP, SATURATES> {
    fn name(&self) -> &'static str {
        match (PDEP, SATURATES) {
            (true, false) => "x86_64-u8i8i32-avx2",
            (false, false) => "x86_64-u8i8i32-avx2-nopdep",
            (true, true) => "x86_64-u8i8i16-avx2",
            (false, true) => "x86_64-u8i8i16-avx2-nopdep",
        }
    }

    fn outpaces_memory(&self) -> bool {
        false
    }

    fn saturating(&self) -> Option<&'static dyn TileKernel> {
        // Proven by `self`.
        Some(&Avx2::<PDEP, true>(()))
    }

    fn saturates(&self) -> bool {
        SATURATES
    }

    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn prefetch(&self, bytes: &[u8]) {
        for line in bytes.chunks(LINE) {
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }

    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        // SAFETY: `self` proves the features.
        unsafe {
            decode_panels::<PDEP>(coded, scratch.of(), |p, symbols, _| {
                out[p * stride..][..symbols.len()].copy_from_slice(symbols);
            })
        }
    }

    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        let (stride, memory) = (acc.stride(), scratch.of::<Memory>());
        // SAFETY: `self` proves the features.
        unsafe {
            prepare::<SATURATES>(&rows, coded.extent.k(), &mut memory.x)?;
            decode_panels::<PDEP>(coded, memory, |p, symbols, x| {
                multiply_panel::<SATURATES>(symbols, x, &mut acc.data()[p * PANEL..], stride);
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
    ) -> Result<(), NoMemory> {
        let (stride, memory) = (acc.stride(), scratch.of::<Memory>());
        // SAFETY: `self` proves the features.
        unsafe {
            prepare::<SATURATES>(&rows, extent.k(), &mut memory.x)?;
            for (p, panel) in symbols[..extent.weights()].chunks_exact(extent.panel()).enumerate() {
                multiply_panel::<SATURATES>(panel, &memory.x, &mut acc.data()[p * PANEL..], stride);
            }
        }
        Ok(())
    }

    fn rows(&self) -> &dyn RowKernel {
        self
    }
}

impl<const PDEP: bool, const SATURATES: bool> RowKernel for Avx2<PDEP, SATURATES> {
    row_operations! {
        range: rows::range,
        quantize: rows::quantize,
        transpose_words: rows::transpose_words,
        write_rows: rows::write_rows,
        write_columns: rows::write_columns,
        dequantize: rows::dequantize,
        pack: rows::pack,
        epilogue: rows::epilogue,
    }
}
