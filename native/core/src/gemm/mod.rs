//! Multiplication of activations with a compressed weight, and the dequantisation behind it.
//!
//! `acc[i, j] = Σ (x[i, k] − x_zero_point) · (w[j, k] − w_zero_point[j]) + bias[j]`, exact int32 that wraps. The kernels
//! see unsigned symbols and signed activations, `Σ (w + o) · (x − s)`; zero points and those two shifts are undone by
//! row sums, column sums and constants.

mod activation;
mod at_once;
mod blocked;
mod call;
mod columns;
mod epilogue;
mod fused;
mod job;
mod plan;
mod prepared;
mod ranges;
mod room;
mod validate;

pub use crate::arch::output::{Destination, Elementwise, Epilogue, Output, ScalarOrPerColumn};
pub use activation::{Activation, RowSource, SplitHeads};
pub use call::{Heads, MatmulCall, Operands, ZeroPoint};
pub use prepared::{PrepareOptions, PreparedWeight, Residency};
pub use room::Room;
pub(crate) use validate::{check_columns, check_length};
