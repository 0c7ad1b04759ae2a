//! The three tensors of a compressed weight: `x2`, `compress_index` and `compress_info`.
//!
//! `docs/reference/format.md` specifies them; this module writes, parses and checks them, and holds no `unsafe`.

mod edges;
mod header;
mod index;
mod layout;
mod read;
mod write;

pub use header::{OLDEST_VERSION, VERSION, stream_of};
pub use layout::{ALIGN, TAIL};
pub use read::{CompressedWeight, Decoded, Stats, Tile, memory_needed};
pub use write::{EncodedWeight, WeightView, encode, encode_packed};
