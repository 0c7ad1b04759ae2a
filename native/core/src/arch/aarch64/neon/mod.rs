//! NEON, which every processor of this architecture has; with its dot product (ARMv8.2 and later) where there is one.
//!
//! `expand` deals bytes out to the lanes of a mask, `levels` builds the sums of a tile's continued weights with it, `decode` makes symbols of
//! them and of root fields, and `products` multiplies those.

mod decode;
mod expand;
mod halves;
mod levels;
mod products;

use crate::arch::feature::Feature;
use crate::arch::kernel::TileKernel;
use crate::arch::operands::{Accumulators, Extent, Rows, TileCode};
use crate::arch::rows::{self, OutputBlock, Terms};
use crate::codec::decode::CodedTile;
use crate::geometry::FRACTAL;
use decode::decode_panels;
use products::{Products, multiply_panels};
use std::cell::RefCell;

/// Rows up to which a tile is multiplied as soon as it is decoded; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Proof that the processor has the instructions.
#[derive(Debug)]
pub struct Neon(Products);

impl Neon {
    /// What it needs, with the dot product and without it.
    pub const NEEDS_WITH_DOT: &[Feature] = &[Feature::Neon, Feature::DotProduct];
    pub const NEEDS: &[Feature] = &[Feature::Neon];

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

/// Memory that a thread keeps from tile to tile.
#[derive(Debug, Default)]
struct Scratch {
    /// Sums of the level that is being built, and of the one below it.
    sums: [Vec<u8>; 2],
    /// Symbols of a tile.
    symbols: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl TileKernel for Neon {
    fn name(&self) -> &'static str {
        match self.0 {
            Products::Dot => "aarch64-u8i8i32-neondot",
            Products::Widening => "aarch64-u8i8i32-neon",
        }
    }

    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn decode(&self, code: &TileCode, tile: &CodedTile<'_>, extent: Extent, out: &mut [u8], stride: usize) -> bool {
        assert!(out.len() >= extent.span(stride));
        // SAFETY: `self` proves the feature.
        SCRATCH
            .with_borrow_mut(|scratch| unsafe { decode_panels(code, tile, extent, &mut scratch.sums, out, stride) })
    }

    fn multiply_coded(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
    ) -> bool {
        SCRATCH.with_borrow_mut(|Scratch { sums, symbols }| {
            symbols.resize(extent.weights(), 0);
            // SAFETY: `self` proves the feature.
            let ok = unsafe { decode_panels(code, tile, extent, sums, symbols, extent.fractals * FRACTAL) };
            if ok {
                self.multiply(symbols, extent, rows, acc);
            }
            ok
        })
    }

    fn multiply(&self, symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>) {
        assert!(rows.covers(extent.k()));
        let stride = acc.stride();
        // SAFETY: `self` proves the features.
        unsafe { multiply_panels(self.0, &symbols[..extent.weights()], extent, rows, acc.data(), stride) };
    }

    fn finish(&self, sums: &[i32], stride: usize, terms: &Terms<'_>, out: OutputBlock<'_>) {
        rows::finish(sums, stride, terms, out, |floats, halves| {
            // SAFETY: `self` proves the feature.
            unsafe { halves::to_halves(floats, halves) }
        });
    }
}
