//! Where things lie in `x2`.

/// Tiles begin at multiples of this in `x2`.
pub const ALIGN: usize = 64;
/// Zero bytes behind the last tile, so that a 64-byte load of its last byte stays inside.
pub const TAIL: usize = 64;
