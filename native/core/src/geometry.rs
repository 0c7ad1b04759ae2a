//! How a weight of shape (n, k) is cut into tiles, panels and fractals.
//!
//! A *fractal* is 16 n × 32 k, a *panel* 16 output columns, a *tile* up to `tiling_n` panels by `tiling_k`
//! fractals. Tiles are numbered with n outer and k inner, as `compress_index` lists them.

use crate::error::Error;

/// Columns of a panel.
pub const PANEL: usize = 16;
/// Weights along k in a fractal.
pub const FRACTAL_K: usize = 32;
/// Weights in a fractal, and bytes when stored raw.
pub const FRACTAL: usize = PANEL * FRACTAL_K;
/// Weights of one decode step: 16 n × 4 k, one 512-bit operand.
pub const GROUP: usize = 64;
/// Weights along k in a group.
pub const GROUP_K: usize = GROUP / PANEL;
/// Groups in a fractal.
pub const GROUPS: usize = FRACTAL / GROUP;
/// Fractals in a tile at the most; keeps every in-tile count within 16 bits of bytes.
pub const MAX_TILE_FRACTALS: usize = 127;

/// Fractals per tile along k and n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Fractals of 32 along k.
    pub k: usize,
    /// Fractals of 16 along n.
    pub n: usize,
}

impl Default for Tiling {
    /// 8 × 8 fractals, the only tiling that the Ascend operator knows.
    fn default() -> Self {
        Self { k: 8, n: 8 }
    }
}

/// Shape and tiling of a weight, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    k: usize,
    n: usize,
    tiling: Tiling,
}

/// Extent of one tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileShape {
    /// First panel.
    pub panel: usize,
    /// Panels in this tile, at least 1.
    pub panels: usize,
    /// First fractal along k.
    pub fractal: usize,
    /// Fractals along k in this tile, at least 1.
    pub fractals: usize,
}

impl TileShape {
    /// Weights in the tile, padding included.
    pub fn weights(&self) -> usize {
        self.panels * self.fractals * FRACTAL
    }
}

impl Geometry {
    /// Checks shape and tiling. k and n are 1 to 2³¹ − 1.
    pub fn new(k: usize, n: usize, tiling: Tiling) -> Result<Self, Error> {
        let limit = i32::MAX as usize;
        if k == 0 || n == 0 {
            return Err(Error::Shape { n, k, reason: "a dimension is zero" });
        }
        if k > limit || n > limit || k.checked_mul(n).is_none_or(|w| w > (1 << 40)) {
            return Err(Error::Shape { n, k, reason: "a dimension or the number of weights is too large" });
        }
        if tiling.k == 0 || tiling.n == 0 || tiling.k.saturating_mul(tiling.n) > MAX_TILE_FRACTALS {
            return Err(Error::Tiling {
                k: tiling.k as i64,
                n: tiling.n as i64,
                reason: "a tile holds 1 to 127 fractals",
            });
        }
        Ok(Self { k, n, tiling })
    }

    /// Length of a dot product.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Output columns.
    pub fn n(&self) -> usize {
        self.n
    }
    /// Fractals per tile.
    pub fn tiling(&self) -> Tiling {
        self.tiling
    }
    /// k rounded up to whole fractals.
    pub fn padded_k(&self) -> usize {
        self.k.next_multiple_of(FRACTAL_K)
    }
    /// n rounded up to whole panels.
    pub fn padded_n(&self) -> usize {
        self.n.next_multiple_of(PANEL)
    }
    /// Tiles along k.
    pub fn tiles_k(&self) -> usize {
        self.k.div_ceil(FRACTAL_K * self.tiling.k)
    }
    /// Tiles along n.
    pub fn tiles_n(&self) -> usize {
        self.n.div_ceil(PANEL * self.tiling.n)
    }
    /// All tiles.
    pub fn tiles(&self) -> usize {
        self.tiles_k() * self.tiles_n()
    }
    /// Columns of a full tile.
    pub fn tile_columns(&self) -> usize {
        self.tiling.n * PANEL
    }
    /// Extent of tile `t`, numbered n outer, k inner.
    pub fn tile(&self, t: usize) -> TileShape {
        let panel = t / self.tiles_k() * self.tiling.n;
        let fractal = t % self.tiles_k() * self.tiling.k;
        TileShape {
            panel,
            panels: self.tiling.n.min(self.n.div_ceil(PANEL) - panel),
            fractal,
            fractals: self.tiling.k.min(self.k.div_ceil(FRACTAL_K) - fractal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_fractal_once() {
        for (k, n) in [(1, 1), (32, 16), (33, 17), (256, 128), (257, 129), (700, 300)] {
            let g = Geometry::new(k, n, Tiling { k: 3, n: 2 }).unwrap();
            let mut seen = vec![0; k.div_ceil(32) * n.div_ceil(16)];
            for t in 0..g.tiles() {
                let s = g.tile(t);
                for p in s.panel..s.panel + s.panels {
                    for f in s.fractal..s.fractal + s.fractals {
                        seen[p * k.div_ceil(32) + f] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&c| c == 1), "{k}×{n}");
        }
    }

    #[test]
    fn empty_and_enormous_shapes_are_refused() {
        for (k, n) in [(0, 1), (1, 0), (usize::MAX, 2), (1 << 30, 1 << 30)] {
            assert!(Geometry::new(k, n, Tiling::default()).is_err());
        }
        assert!(Geometry::new(1, 1, Tiling { k: 16, n: 8 }).is_err());
        assert!(Geometry::new(1, 1, Tiling { k: 0, n: 8 }).is_err());
    }
}
