//! The entropy code: a *root field* of fixed width, continued by unary *levels* for the rarer weights.
//!
//! Symbols (weight bytes, int8 shifted by 128) are ranked, the frequent ones first ([`Order`]). With `root_bits` R, `step` A and `levels` D, let
//! T = 2^R − A:
//!
//! - rank < T: the root is the rank;
//! - T ≤ rank < T + A·D: the root is T + (rank − T) mod A, and u = (rank − T) div A continuation bits of 1, followed by a 0,
//!   say how many times A is to be added;
//! - any other rank is an *escape*: a root of T, D continuation bits of 1, and a byte that is added in place of the
//!   last step.
//!
//! The root field holds the root. Where ranks go by distance, it holds an offset from the centre instead, in two's complement,
//! and A is a power of two: then adding A to a rank changes bits of the offset that the root leaves alone, and a decoder, which need not
//! know the sign, has the offset by an exclusive or.
//!
//! It is a Golomb code over ranks whose unary part is stored level by level, each level *dense*: one bit for
//! each weight that the level before continued, and nothing for the others. A decoder works from the deepest level up:
//! 64 bits of a level expand the sums of the level below into the sums of 64 of its own entries, and at last the root
//! fields that are continued take theirs. No weight waits for the one before it, no position depends on a decoded value
//! but through a count of ones, and a level costs in proportion to the few weights that reach it. `docs/reference/format.md`
//! specifies the layout.

pub mod code;
pub mod decode;
pub mod encode;
pub mod histogram;
pub mod order;
pub mod types;

pub use code::{Code, MAX_LEVELS};
pub use histogram::Histogram;
pub use order::{Order, Stored};
pub use types::{Profile, WeightType};
