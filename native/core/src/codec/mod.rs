//! The entropy code: a *root field* of fixed width, continued by unary *levels* for the rarer weights.
//!
//! Symbols (weight bytes, int8 shifted by 128) are ranked by frequency. With `root_bits` R, `step` A and
//! `levels` D, let T = 2^R − A:
//!
//! - rank < T: the root field holds the rank;
//! - T ≤ rank < T + A·D: the root field holds T + (rank − T) mod A, and u = (rank − T) div A continuation
//!   bits of 1, followed by a 0, say how many times A is to be added;
//! - any other symbol is an *escape*: a root field of T or more, D continuation bits of 1, and a literal byte.
//!
//! It is a Golomb code over frequency ranks whose unary part is stored by *bit planes*: the first continuation bits
//! of a group of 64 weights together, then the second ones. A decoder handles the 64 at once: which lanes read a bit of
//! a level is known as a 64-bit mask, so one bit deposit hands every lane its bit, and no weight waits for the one
//! before it.
//!
//! The bits of level 0 have a stream of their own, whose positions follow from the root fields alone. The deeper
//! levels of a group lie one behind the other in one of four streams, taken in turn by the groups, so that four groups
//! are decoded side by side. `docs/format.md` specifies the layout.

pub mod code;
pub mod decode;
pub mod encode;
pub mod histogram;

pub use code::{Code, MAX_LEVELS, MAX_RANKS};
pub use histogram::Histogram;

/// Streams of the levels from 1 on; group g of a fractal uses stream g mod 4.
pub const DEEP_STREAMS: usize = 4;
/// Streams of continuation bits at the most: level 0 and the deeper ones.
pub const MAX_STREAMS: usize = 1 + DEEP_STREAMS;

/// Names a trade between size and speed; the format is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// No levels: root field and escapes only.
    Fast,
    /// A few levels: near the entropy, decoded faster than memory delivers plain weights to onnxruntime.
    #[default]
    Balanced,
    /// As many levels as pay for themselves.
    Small,
}

impl Profile {
    /// The profile of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "fast" => Self::Fast,
            "balanced" => Self::Balanced,
            "small" => Self::Small,
            _ => return None,
        })
    }

    /// As given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Small => "small",
        }
    }
}

/// Type of the weights as the model sees them. Inside, a weight is the *symbol* `u8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Two's complement; symbol = weight + 128.
    I8,
    /// Symbol = weight.
    U8,
}

impl WeightType {
    /// Turns a weight byte into a symbol, and back: the one place where the sign is shifted.
    #[inline]
    pub fn flip(self) -> u8 {
        match self {
            Self::I8 => 0x80,
            Self::U8 => 0,
        }
    }

    /// What a symbol exceeds its weight by.
    #[inline]
    pub fn offset(self) -> i32 {
        i32::from(self.flip())
    }
}
