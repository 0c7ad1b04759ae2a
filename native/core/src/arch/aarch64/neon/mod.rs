//! NEON, which every processor of this architecture has; with its dot product (ARMv8.2 and later) or its matrix
//! product (ARMv8.6 and later) where there is one.
//!
//! `expand` deals bytes out to the lanes of a mask, `group` is what generic algorithms have of that and other instructions, `decode` makes
//! symbols with them, and `products` multiplies those.

mod decode;
mod expand;
mod group;
mod halves;
mod layout;
mod products;

use crate::arch::feature::Feature;
use crate::arch::kernel::{Multiplier, NoMemory, Refused, RowKernel, TileKernel, resize, row_operations};
use crate::arch::operands::{Accumulators, Coded, Extent, Rows, Symbols};
use crate::arch::workspace::Scratch;
use decode::decode_panels;
use products::{Products, multiply_panels};

/// Rows up to which a tile is multiplied as soon as it is decoded; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Proof that the processor has the instructions.
#[derive(Debug)]
pub struct Neon(Products);

impl Neon {
    /// What it needs, with the matrix product, with the dot product and with neither.
    pub const NEEDS_WITH_MATRIX: &[Feature] = &[Feature::Neon, Feature::DotProduct, Feature::MatrixProduct];
    pub const NEEDS_WITH_DOT: &[Feature] = &[Feature::Neon, Feature::DotProduct];
    pub const NEEDS: &[Feature] = &[Feature::Neon];

    /// # Safety
    /// The processor has all of [`Self::NEEDS_WITH_MATRIX`].
    pub const unsafe fn assume_with_matrix() -> Self {
        Self(Products::Matrix)
    }

    /// # Safety
    /// The processor has all of [`Self::NEEDS_WITH_DOT`].
    pub const unsafe fn assume_with_dot() -> Self {
        Self(Products::Dot)
    }

    /// # Safety
    /// The processor has all of [`Self::NEEDS`].
    pub const unsafe fn assume() -> Self {
        Self(Products::Widening)
    }
}

/// Memory that a thread keeps from tile to tile, some kilobytes for the largest one.
#[derive(Debug, Default)]
struct Memory {
    /// Sums of the level that is being built, and of the one below it.
    sums: [Vec<u8>; 2],
    /// Symbols of a tile.
    symbols: Vec<u8>,
}

impl Multiplier for Neon {
    fn name(&self) -> &'static str {
        match self.0 {
            Products::Matrix => "aarch64-u8i8i32-neoni8mm",
            Products::Dot => "aarch64-u8i8i32-neondot",
            Products::Widening => "aarch64-u8i8i32-neon",
        }
    }

    fn multiply(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        _: &mut Scratch,
    ) -> Result<(), NoMemory> {
        self.add_products(symbols.bytes, extent, rows, acc);
        Ok(())
    }

    fn rows(&self) -> &dyn RowKernel {
        self
    }
}

impl TileKernel for Neon {
    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        assert!(out.len() >= coded.extent.span(stride));
        // SAFETY: `self` proves the feature.
        unsafe { decode_panels(coded, &mut scratch.of::<Memory>().sums, out, stride) }
    }

    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        let Memory { sums, symbols } = scratch.of();
        resize(symbols, coded.extent.weights(), 0)?;
        // SAFETY: `self` proves the feature.
        unsafe { decode_panels(coded, sums, symbols, coded.extent.panel()) }?;
        self.add_products(symbols, coded.extent, rows, acc);
        Ok(())
    }
}

impl RowKernel for Neon {
    row_operations! {
        write_rows: layout::write_rows,
        write_columns: layout::write_columns,
        epilogue: halves::epilogue,
    }
}

impl Neon {
    fn add_products(&self, symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>) {
        assert!(rows.covers(extent.k()));
        let stride = acc.stride();
        // SAFETY: `self` proves the features.
        unsafe { multiply_panels(self.0, &symbols[..extent.weights()], extent, rows, acc.data(), stride) };
    }
}
