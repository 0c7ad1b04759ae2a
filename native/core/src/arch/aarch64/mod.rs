//! ARM, 64 bits.

pub mod neon;
