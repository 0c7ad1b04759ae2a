//! The scalar kernel: what all others are compared with.

use crate::arch::kernel::{NoMemory, Refused, RowKernel, TileKernel, resize};
use crate::arch::operands::{Accumulators, Coded, Extent, Rows};
use crate::arch::workspace::Scratch;
use crate::geometry::{GROUP, PANEL};

/// Plain Rust, any processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Portable<const SATURATES: bool = false>;

impl<const SATURATES: bool> TileKernel for Portable<SATURATES> {
    fn name(&self) -> &'static str {
        if SATURATES { "portable-u8i8i16-scalar" } else { "portable-u8i8i32-scalar" }
    }

    fn outpaces_memory(&self) -> bool {
        false
    }

    fn saturating(&self) -> Option<&'static dyn TileKernel> {
        Some(&Portable::<true>)
    }

    fn saturates(&self) -> bool {
        SATURATES
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

    fn multiply(
        &self,
        symbols: &[u8],
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        _: &mut Scratch,
    ) -> Result<(), NoMemory> {
        multiply::<SATURATES>(symbols, extent, rows, acc);
        Ok(())
    }

    fn rows(&self) -> &dyn RowKernel {
        self
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
            for (group, x) in panel.chunks_exact(GROUP).zip(rows.row(i).chunks_exact(4)) {
                for (sum, w) in sums.iter_mut().zip(group.chunks_exact(4)) {
                    let dot = if SATURATES { saturating(w, x) } else { exact(w, x) };
                    *sum = sum.wrapping_add(dot);
                }
            }
        }
    }
}

fn exact(w: &[u8], x: &[i8]) -> i32 {
    w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum()
}

/// Products of pairs that saturate, of symbols of int8 weights and packed uint8 activations.
pub fn saturating(w: &[u8], x: &[i8]) -> i32 {
    let product = |(&w, &x): (&u8, &i8)| (i32::from(w) - 128) * (i32::from(x) + 128);
    let products = |(w, x): (&[u8], &[i8])| w.iter().zip(x).map(product).sum();
    let pairs = w.chunks_exact(2).zip(x.chunks_exact(2)).map(products);
    pairs.map(|pair: i32| pair.clamp(i16::MIN.into(), i16::MAX.into())).sum()
}
