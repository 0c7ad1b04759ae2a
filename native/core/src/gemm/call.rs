//! What is asked of a multiplication.

use super::activation::Activation;
use std::ops::Range;

/// Zero points of the weight, in the weight's own type.
#[derive(Debug, Clone, Copy, Default)]
pub enum ZeroPoint<'a> {
    /// Symmetric weights.
    #[default]
    None,
    /// One for all columns.
    Scalar(i32),
    /// (n,).
    PerColumn(&'a [i32]),
}

impl ZeroPoint<'_> {
    /// Whether all are this one.
    pub(crate) fn is(&self, value: i32) -> bool {
        match self {
            Self::None => value == 0,
            Self::Scalar(zero_point) => *zero_point == value,
            Self::PerColumn(each) => each.iter().all(|zero_point| *zero_point == value),
        }
    }

    /// Those of some columns.
    fn columns(&self, columns: Range<usize>) -> Self {
        match self {
            Self::PerColumn(each) => Self::PerColumn(&each[columns]),
            other => *other,
        }
    }
}

/// What an integer product has besides activations and weight.
#[derive(Debug, Clone, Copy, Default)]
pub struct Operands<'a> {
    /// In the activation's own type. Floats have that of their quantisation instead.
    pub x_zero_point: i32,
    /// Multiplied with the output's scale first, where the activation has one. Floats have that of their quantisation instead.
    pub x_scale: Option<f32>,
    /// In the weight's own type.
    pub w_zero_point: ZeroPoint<'a>,
    /// (n,), added to the integer sums.
    pub bias: Option<&'a [i32]>,
}

impl Operands<'_> {
    /// Those of a product with some columns of the weight.
    pub(crate) fn columns(&self, columns: Range<usize>) -> Self {
        Self {
            w_zero_point: self.w_zero_point.columns(columns.clone()),
            bias: self.bias.map(|bias| &bias[columns]),
            ..*self
        }
    }
}

/// What is multiplied.
#[derive(Debug, Clone, Copy)]
pub struct MatmulCall<'a> {
    /// (m, k), row-major.
    pub x: Activation<'a>,
    /// Rows.
    pub m: usize,
    /// What else goes into the sums.
    pub operands: Operands<'a>,
    /// Another order of the output.
    pub heads: Option<Heads>,
}

impl MatmulCall<'_> {
    /// The same: heads of one row each are in the order of the matrix.
    pub(super) fn without_heads_of_one_row(&self) -> Self {
        let x = match self.x {
            Activation::F32(x, Some(split)) if split.rows == 1 => Activation::F32(x, None),
            x => x,
        };
        Self { x, heads: self.heads.filter(|heads| heads.rows != 1), ..*self }
    }
}

/// The output as attention wants it: (m / rows, n / columns, rows, columns) instead of (m, n).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Rows of an element of the batch; a divisor of m.
    pub rows: usize,
    /// Columns of a head; a divisor of n.
    pub columns: usize,
}
