//! The three tensors of a compressed weight: `x2`, `compress_index` and `compress_info`.
//!
//! `docs/format.md` specifies them; this module writes, parses and checks them, and holds no `unsafe`.

pub mod geometry;
mod header;
mod index;
mod read;
mod write;

pub use header::VERSION;
pub use read::{CompressedWeight, Stats, Tile};
pub use write::{EncodedWeight, WeightView, encode};

/// Tiles begin at multiples of this in `x2`.
pub const ALIGN: usize = 64;
/// Zero bytes behind the last tile, so that a 64-byte load of its last byte stays inside.
pub const TAIL: usize = 64;
