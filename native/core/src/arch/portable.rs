//! The scalar kernel: what all others are compared with.

use crate::arch::kernel::{Damaged, TileKernel};
use crate::arch::operands::{Accumulators, Extent, Rows, TileCode};
use crate::arch::workspace::Scratch;
use crate::codec::decode::CodedTile;
use crate::geometry::{GROUP, PANEL};

/// Plain Rust, any processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Portable;

impl TileKernel for Portable {
    fn name(&self) -> &'static str {
        "portable-u8i8i32-scalar"
    }

    fn fused_rows(&self) -> usize {
        1
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
        let symbols = decoded(code, tile, extent, scratch)?;
        extent.scatter(symbols, out, stride);
        Ok(())
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
        let symbols = decoded(code, tile, extent, scratch)?;
        multiply(symbols, extent, rows, acc);
        Ok(())
    }

    fn multiply(&self, symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>, _: &mut Scratch) {
        multiply(symbols, extent, rows, acc);
    }
}

/// The symbols of a tile.
fn decoded<'a>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    scratch: &'a mut Scratch,
) -> Result<&'a [u8], Damaged> {
    let symbols = scratch.of::<Vec<u8>>();
    symbols.resize(extent.weights(), 0);
    tile.decode(&code.code, symbols).map_err(|_| Damaged)?;
    Ok(symbols)
}

fn multiply(symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>) {
    let stride = acc.stride();
    for (p, panel) in symbols[..extent.weights()].chunks_exact(extent.panel()).enumerate() {
        for i in 0..rows.m() {
            let sums = &mut acc.data()[i * stride + p * PANEL..][..PANEL];
            for (group, x) in panel.chunks_exact(GROUP).zip(rows.row(i).chunks_exact(4)) {
                for (sum, w) in sums.iter_mut().zip(group.chunks_exact(4)) {
                    let dot: i32 = w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
                    *sum = sum.wrapping_add(dot);
                }
            }
        }
    }
}
