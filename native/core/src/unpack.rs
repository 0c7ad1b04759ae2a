//! Decoding with the kernel's decoder: of a tile, and of a whole weight.

use crate::arch::{Extent, TileCode};
use crate::container::{CompressedWeight, Tile};
use crate::dispatch::Kernel;
use crate::error::{Error, with_room};
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, PANEL};

/// The weight (n, k), row-major; checks every checksum and every code word.
pub fn unpack(weight: &CompressedWeight, x2: &[u8], kernel: Kernel) -> Result<Vec<u8>, Error> {
    let geometry = *weight.geometry();
    let (k, n) = (geometry.k(), geometry.n());
    let flip = weight.weight_type().flip();
    let code = weight.code().cloned().map(TileCode::from);
    let mut out = with_room(n * k, "a decoded weight")?;
    out.resize(n * k, 0);
    let mut symbols = Vec::new();
    for t in 0..geometry.tiles() {
        let shape = geometry.tile(t);
        let extent = Extent { panels: shape.panels, fractals: shape.fractals };
        symbols.resize(extent.weights(), 0);
        weight.verify_tile(x2, t)?;
        if !decode_tile(weight, code.as_ref(), kernel, x2, t, &mut symbols, shape.fractals * FRACTAL)? {
            return Err(refusal(weight, x2, t));
        }
        for (p, panel) in symbols.chunks_exact(shape.fractals * FRACTAL).enumerate() {
            let n0 = (shape.panel + p) * PANEL;
            let k0 = shape.fractal * FRACTAL_K;
            for i in 0..PANEL.min(n - n0) {
                let row = &mut out[(n0 + i) * k..(n0 + i + 1) * k][k0..];
                for (quad, group) in row.chunks_mut(4).zip(panel.chunks_exact(GROUP)) {
                    for (w, s) in quad.iter_mut().zip(&group[4 * i..4 * i + 4]) {
                        *w = s ^ flip;
                    }
                }
            }
        }
    }
    Ok(out)
}

/// Writes the symbols of tile `t` in kernel order, panels `stride` apart; whether they decode.
pub(crate) fn decode_tile(
    weight: &CompressedWeight,
    code: Option<&TileCode>,
    kernel: Kernel,
    x2: &[u8],
    t: usize,
    out: &mut [u8],
    stride: usize,
) -> Result<bool, Error> {
    let shape = weight.geometry().tile(t);
    let extent = Extent { panels: shape.panels, fractals: shape.fractals };
    match weight.tile(x2, t)? {
        Tile::Coded(tile) => {
            let code = code.expect("a coded tile has a code");
            return Ok(kernel.tile().decode(code, &tile, extent, out, stride));
        }
        Tile::Raw(raw) => extent.scatter(raw, out, stride),
        Tile::Constant(symbol) => {
            for panel in 0..extent.panels {
                out[panel * stride..][..extent.fractals * FRACTAL].fill(symbol);
            }
        }
    }
    Ok(true)
}

/// Why tile `t`, which a kernel refuses, does not decode: the reference finds the reason.
pub(crate) fn refusal(weight: &CompressedWeight, x2: &[u8], t: usize) -> Error {
    let mut symbols = vec![0; weight.geometry().tile(t).weights()];
    let reason = match (weight.tile(x2, t), weight.code()) {
        (Err(error), _) => return error,
        (Ok(Tile::Coded(tile)), Some(code)) => tile.decode(code, &mut symbols).err(),
        _ => None,
    };
    Error::Tile { tile: t, reason: reason.unwrap_or("does not decode") }
}
