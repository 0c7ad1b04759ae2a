//! From integer sums to the output: zero points, bias, scale, addend, gate, residual, rounding.

use super::call::{Heads, ZeroPoint};
use super::ranges::pieces;
use crate::arch::rows::{Elementwise, OutputBlock, Part, Terms, Vector, WeightTerm};
use std::ops::Range;

/// Requantised output.
#[derive(Debug)]
pub enum QuantOut<'a> {
    /// uint8.
    U8(&'a mut [u8]),
    /// int8.
    I8(&'a mut [i8]),
}

/// Where the result goes; all (m, n), row-major.
#[derive(Debug)]
pub enum Output<'a> {
    /// The integer sums.
    I32(&'a mut [i32]),
    /// `fp32(acc) · scale (+ addend) (· gate) (+ residual)`.
    F32 {
        /// (m, n).
        out: &'a mut [f32],
        /// Factor.
        scale: Vector<'a>,
        /// Added behind the multiplication.
        addend: Option<Vector<'a>>,
        /// (m, n), in the order of `out`.
        elementwise: Elementwise<'a>,
    },
    /// `fp32(acc) · scale (+ addend)`, rounded to fp16 at the end (bits).
    F16 {
        /// (m, n).
        out: &'a mut [u16],
        /// Factor.
        scale: Vector<'a>,
        /// Added behind the multiplication, before the rounding.
        addend: Option<Vector<'a>>,
    },
    /// `saturate(round_half_even(fp32(acc) · scale) + zero_point)`.
    Requant {
        /// (m, n).
        out: QuantOut<'a>,
        /// Factor: x_scale · w_scale / y_scale.
        scale: Vector<'a>,
        /// Of the output.
        zero_point: i32,
    },
}

impl<'a> Output<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::I32(out) => out.len(),
            Self::F32 { out, .. } => out.len(),
            Self::F16 { out, .. } => out.len(),
            Self::Requant { out: QuantOut::U8(out), .. } => out.len(),
            Self::Requant { out: QuantOut::I8(out), .. } => out.len(),
        }
    }

    /// What the sums are multiplied with; 1 where they are the output.
    pub(super) fn scale(&self) -> Vector<'a> {
        match self {
            Self::I32(_) => Vector::Scalar(1.0),
            Self::F32 { scale, .. } | Self::F16 { scale, .. } | Self::Requant { scale, .. } => *scale,
        }
    }

    /// Elements of gate and residual.
    pub(super) fn elementwise(&self) -> [Option<usize>; 2] {
        match self {
            Self::F32 { elementwise: Elementwise { gate, residual }, .. } => {
                [gate.map(<[_]>::len), residual.map(<[_]>::len)]
            }
            _ => [None, None],
        }
    }

    pub(super) fn vectors(&self) -> [Option<usize>; 2] {
        match self {
            Self::I32(_) => [None, None],
            Self::F32 { scale, addend, .. } | Self::F16 { scale, addend, .. } => {
                [columns(scale), addend.as_ref().and_then(columns)]
            }
            Self::Requant { scale, .. } => [columns(scale), None],
        }
    }
}

/// An output that several threads write, each its own blocks.
pub(super) struct SharedOutput<'a> {
    target: Target<'a>,
    n: usize,
    /// What is contiguous: rows of one element of the batch, columns of one head; all of them where there are no heads.
    piece: Heads,
}

enum Target<'a> {
    I32(*mut i32),
    F32(*mut f32, Option<Vector<'a>>, Elementwise<'a>),
    F16(*mut u16, Option<Vector<'a>>),
    U8(*mut u8, i32),
    I8(*mut i8, i32),
}

// SAFETY: the pointers come from exclusive borrows that last for 'a; `block` is told by its contract to be called for
// each part by one thread only.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    /// Takes over the borrow of `output`, (m, n) or as `heads` say, but for its scale.
    pub fn new(output: Output<'a>, (m, n): (usize, usize), heads: Option<Heads>) -> Self {
        let target = match output {
            Output::I32(out) => Target::I32(out.as_mut_ptr()),
            Output::F32 { out, addend, elementwise, .. } => Target::F32(out.as_mut_ptr(), addend, elementwise),
            Output::F16 { out, addend, .. } => Target::F16(out.as_mut_ptr(), addend),
            Output::Requant { out: QuantOut::U8(out), zero_point, .. } => Target::U8(out.as_mut_ptr(), zero_point),
            Output::Requant { out: QuantOut::I8(out), zero_point, .. } => Target::I8(out.as_mut_ptr(), zero_point),
        };
        Self { target, n, piece: heads.unwrap_or(Heads { rows: m, columns: n }) }
    }

    /// Rows cut where an element of the batch ends.
    pub fn row_pieces(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        pieces(rows, self.piece.rows)
    }

    /// Columns cut where a head ends.
    pub fn column_pieces(&self, columns: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        pieces(columns, self.piece.columns)
    }

    /// A block of rows and columns, of one element of the batch and of one head; `scale` is that of all columns.
    ///
    /// # Safety
    /// They lie inside the output, and no one else has them meanwhile.
    ///
    /// # Panics
    /// If they are of several.
    pub unsafe fn block<'b>(
        &'b self,
        rows: Range<usize>,
        columns: Range<usize>,
        scale: &Vector<'b>,
    ) -> OutputBlock<'b> {
        let (j0, count) = (columns.start, columns.len());
        let stride = self.piece.columns;
        let (batch, i) = (rows.start / self.piece.rows, rows.start % self.piece.rows);
        let (head, j) = (j0 / stride, j0 % stride);
        assert!(i + rows.len() <= self.piece.rows && j + count <= stride, "a block of one head");
        let at = (batch * self.n + head * stride) * self.piece.rows + i * stride + j;
        // SAFETY: the caller owns these elements of an output that `self` borrows exclusively.
        unsafe {
            match &self.target {
                Target::I32(out) => OutputBlock::I32(Part::new(out.add(at), stride, rows.len(), count)),
                Target::F32(out, addend, elementwise) => OutputBlock::F32(
                    Part::new(out.add(at), stride, rows.len(), count),
                    scale.columns(j0, count),
                    addend.map(|a| a.columns(j0, count)),
                    elementwise.from(at),
                ),
                Target::F16(out, addend) => OutputBlock::F16(
                    Part::new(out.add(at), stride, rows.len(), count),
                    scale.columns(j0, count),
                    addend.map(|a| a.columns(j0, count)),
                ),
                Target::U8(out, zero) => {
                    let part = Part::new(out.add(at), stride, rows.len(), count);
                    OutputBlock::U8(part, scale.columns(j0, count), *zero)
                }
                Target::I8(out, zero) => {
                    let part = Part::new(out.add(at), stride, rows.len(), count);
                    OutputBlock::I8(part, scale.columns(j0, count), *zero)
                }
            }
        }
    }
}

fn columns(vector: &Vector<'_>) -> Option<usize> {
    match vector {
        Vector::Scalar(_) => None,
        Vector::PerColumn(v) => Some(v.len()),
    }
}

/// Turns kernel sums Σ (w + o)(x − s) into Σ (x − x₀)(w − w₀) + bias.
pub(super) struct Correction {
    /// Per column: bias and all that does not depend on the row.
    columns: Vec<i32>,
    /// o + w₀, for all columns or one a column.
    weight: WeightZero,
}

enum WeightZero {
    Scalar(i32),
    PerColumn(Vec<i32>),
}

impl Correction {
    /// `column_sums` are Σₖ of symbols; `x_zero` and `w_offset` are x₀ − s and o.
    pub fn new(
        column_sums: &[i32],
        k: usize,
        x_zero: i32,
        w_offset: i32,
        w_zero: &ZeroPoint<'_>,
        bias: Option<&[i32]>,
    ) -> Self {
        let weight = match w_zero {
            ZeroPoint::None => WeightZero::Scalar(w_offset),
            ZeroPoint::Scalar(z) => WeightZero::Scalar(w_offset.wrapping_add(*z)),
            // Quantisers write a zero for each column of symmetric weights; kernels are faster with one for all.
            ZeroPoint::PerColumn([z, rest @ ..]) if rest.iter().all(|other| other == z) => {
                WeightZero::Scalar(w_offset.wrapping_add(*z))
            }
            ZeroPoint::PerColumn(z) => WeightZero::PerColumn(z.iter().map(|z| w_offset.wrapping_add(*z)).collect()),
        };
        let kx = (k as i32).wrapping_mul(x_zero);
        let mut columns: Vec<i32> = match &weight {
            WeightZero::Scalar(a) => {
                let constant = kx.wrapping_mul(*a);
                column_sums.iter().map(|s| constant.wrapping_sub(x_zero.wrapping_mul(*s))).collect()
            }
            WeightZero::PerColumn(a) => column_sums
                .iter()
                .zip(a)
                .map(|(s, a)| kx.wrapping_mul(*a).wrapping_sub(x_zero.wrapping_mul(*s)))
                .collect(),
        };
        if let Some(bias) = bias {
            columns.iter_mut().zip(bias).for_each(|(c, b)| *c = c.wrapping_add(*b));
        }
        Self { columns, weight }
    }

    /// For a block of some columns and of rows with these sums.
    pub fn terms<'a>(&'a self, columns: Range<usize>, row_sums: &'a [i32]) -> Terms<'a> {
        let weight = match &self.weight {
            WeightZero::Scalar(a) => WeightTerm::Scalar(*a),
            WeightZero::PerColumn(a) => WeightTerm::PerColumn(&a[columns.clone()]),
        };
        Terms { columns: &self.columns[columns], weight, row_sums }
    }
}
