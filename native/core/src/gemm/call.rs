//! What is asked of a multiplication.

use super::activation::Activation;

/// Zero points of the weight, in the weight's own type.
#[derive(Debug, Clone, Copy)]
pub enum ZeroPoint<'a> {
    /// Symmetric weights.
    None,
    /// One for all columns.
    Scalar(i32),
    /// (n,).
    PerColumn(&'a [i32]),
}

/// What is multiplied.
#[derive(Debug, Clone, Copy)]
pub struct MatmulCall<'a> {
    /// (m, k), row-major.
    pub x: Activation<'a>,
    /// Rows.
    pub m: usize,
    /// In the activation's own type. Floats have that of their quantisation instead.
    pub x_zero_point: i32,
    /// Multiplied with the output's scale first, where the activation has one. Floats have that of their quantisation instead.
    pub x_scale: Option<f32>,
    /// In the weight's own type.
    pub w_zero_point: ZeroPoint<'a>,
    /// (n,), added to the integer sums.
    pub bias: Option<&'a [i32]>,
    /// Another order of the output.
    pub heads: Option<Heads>,
}

/// The output as attention wants it: (m / rows, n / columns, rows, columns) instead of (m, n).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Rows of an element of the batch; a divisor of m.
    pub rows: usize,
    /// Columns of a head; a divisor of n.
    pub columns: usize,
}
