//! The scalar kernel: what all others are compared with.

use crate::arch::kernel::{Multiplier, NoMemory, Refused, RowKernel, TileKernel, resize};
use crate::arch::operands::{Accumulators, Coded, Extent, Rows, Symbols};
use crate::arch::workspace::Scratch;
use crate::geometry::{GROUP, PANEL};

/// Plain Rust, any processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Portable<const SATURATES: bool = false>;

impl<const SATURATES: bool> Multiplier for Portable<SATURATES> {
    fn name(&self) -> &'static str {
        if SATURATES { "portable-u8i8i16-scalar" } else { "portable-u8i8i32-scalar" }
    }

    fn saturates(&self) -> bool {
        SATURATES
    }

    fn multiply(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        _: &mut Scratch,
    ) -> Result<(), NoMemory> {
        multiply::<SATURATES>(symbols.bytes, extent, rows, acc);
        Ok(())
    }

    fn rows(&self) -> &dyn RowKernel {
        self
    }
}

impl<const SATURATES: bool> TileKernel for Portable<SATURATES> {
    fn outpaces_memory(&self) -> bool {
        false
    }

    fn saturating(&self) -> Option<&'static dyn TileKernel> {
        Some(&Portable::<true>)
    }

    fn fused_rows(&self) -> usize {
        1
    }

    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        coded.extent.scatter(decoded(coded, scratch)?, out, stride);
        Ok(())
    }

    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        multiply::<SATURATES>(decoded(coded, scratch)?, coded.extent, rows, acc);
        Ok(())
    }

    fn multiply_constant(&self, row: &[i8], symbol: u8) -> i32 {
        let product = if SATURATES { saturating } else { exact };
        row.as_chunks().0.iter().map(|x| product(&[symbol; 4], x)).fold(0, i32::wrapping_add)
    }
}

impl<const SATURATES: bool> RowKernel for Portable<SATURATES> {}

/// The symbols of a tile.
fn decoded<'a>(Coded { code, tile, extent }: Coded<'_>, scratch: &'a mut Scratch) -> Result<&'a [u8], Refused> {
    let symbols = scratch.of::<Vec<u8>>();
    resize(symbols, extent.weights(), 0)?;
    tile.decode(&code.code, symbols)?;
    Ok(symbols)
}

fn multiply<const SATURATES: bool>(symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>) {
    let stride = acc.stride();
    for (p, panel) in symbols[..extent.weights()].chunks_exact(extent.panel()).enumerate() {
        for i in 0..rows.m() {
            let sums = &mut acc.data()[i * stride + p * PANEL..][..PANEL];
            for (group, x) in panel.chunks_exact(GROUP).zip(rows.row(i).as_chunks().0) {
                for (sum, w) in sums.iter_mut().zip(group.as_chunks().0) {
                    let dot = if SATURATES { saturating(w, x) } else { exact(w, x) };
                    *sum = sum.wrapping_add(dot);
                }
            }
        }
    }
}

fn exact(w: &[u8; 4], x: &[i8; 4]) -> i32 {
    w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum()
}

/// Products of pairs that saturate, of symbols of int8 weights and packed uint8 activations.
fn saturating(w: &[u8; 4], x: &[i8; 4]) -> i32 {
    let product = |i: usize| (i32::from(w[i]) - 128) * (i32::from(x[i]) + 128);
    [0, 2].map(|i| (product(i) + product(i + 1)).clamp(i16::MIN.into(), i16::MAX.into())).into_iter().sum()
}
