//! Decoding of a whole weight with the kernel's decoder.

use crate::arch::{Extent, TileCode};
use crate::container::geometry::{FRACTAL, FRACTAL_K, GROUP, PANEL};
use crate::container::{CompressedWeight, Tile};
use crate::dispatch::Kernel;
use crate::error::{Error, with_room};

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
        match weight.tile(x2, t)? {
            Tile::Constant(symbol) => symbols.fill(symbol),
            Tile::Raw(raw) => symbols.copy_from_slice(raw),
            Tile::Coded(tile) => {
                let code = code.as_ref().expect("a coded tile has a code");
                if !kernel.tile().decode(code, &tile, extent, &mut symbols, shape.fractals * FRACTAL) {
                    // The reference finds the reason.
                    tile.decode(&code.code, &mut symbols).map_err(|reason| Error::Tile { tile: t, reason })?;
                    return Err(Error::Tile { tile: t, reason: "does not decode" });
                }
            }
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
