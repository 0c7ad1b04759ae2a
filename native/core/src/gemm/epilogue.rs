//! From integer sums to the output: zero points, bias, scale, addend, gate, residual, rounding.

use super::activation::SHIFT;
use super::call::{Heads, MatmulCall, Operands, ZeroPoint};
use super::columns::Columns;
use super::prepared::PreparedWeight;
use super::ranges::pieces;
use crate::arch::output::{Output, ScalarOrPerColumn};
use crate::arch::rows::{Terms, WeightTerm};
use crate::arch::{Multiplier, RowKernel, TermMemory};
use crate::error::{Error, refill, resize};
use crate::quantize::Quantizer;
use std::ops::Range;

/// An output that several threads write, each its own blocks.
pub(super) struct SharedOutput<'a> {
    output: Output<'a>,
    rows: usize,
    n: usize,
    /// What is together: rows of one element of the batch, columns of one head; all of them where there are no heads.
    piece: Heads,
    /// Distance of the rows of a piece.
    stride: usize,
}

// SAFETY: the destination is memory that is borrowed exclusively for 'a; `block` is told by its contract to be called for
// each part by one thread only.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    /// Takes over `output`, (m, n) or as `heads` say; where there are none, its rows may be apart.
    pub fn new(output: Output<'a>, (m, n): (usize, usize), heads: Option<Heads>) -> Self {
        let piece = heads.unwrap_or(Heads { rows: m, columns: n });
        let stride = match heads {
            None => output.destination.row_stride(n),
            Some(heads) => heads.columns,
        };
        Self { output, rows: m, n, piece, stride }
    }

    /// What sums are multiplied with, of all columns.
    pub fn scale(&self) -> ScalarOrPerColumn<'a> {
        self.output.epilogue.scale()
    }

    /// Whether there are no heads.
    pub fn is_one_piece(&self) -> bool {
        self.piece.columns == self.n && self.rows == self.piece.rows
    }

    /// Rows cut where an element of the batch ends.
    pub fn row_pieces(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        pieces(rows, self.piece.rows)
    }

    /// Columns cut where a head ends.
    pub fn column_pieces(&self, columns: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        pieces(columns, self.piece.columns)
    }

    /// A block of rows and columns, of one element of the batch and of one head; `scale` is that of all columns, in the place
    /// of the output's own.
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
        scale: ScalarOrPerColumn<'b>,
    ) -> Output<'b> {
        let (j0, count) = (columns.start, columns.len());
        let Heads { rows: of_one, columns } = self.piece;
        let (batch, i) = (rows.start / of_one, rows.start % of_one);
        let (head, j) = (j0 / columns, j0 % columns);
        assert!(i + rows.len() <= of_one && j + count <= columns, "a block of one head");
        let at = (batch * self.n + head * columns) * of_one + i * self.stride + j;
        Output {
            // SAFETY: the caller owns these elements of an output that `self` borrows exclusively.
            destination: unsafe { self.output.destination.part(at, self.stride, rows.len(), count) },
            epilogue: self.output.epilogue.part(scale, j0, count, at),
        }
    }
}

/// What a kernel's sums are made of.
struct Factors<'a> {
    /// Length of the products.
    k: usize,
    /// Σₖ of symbols.
    column_sums: &'a [i32],
    /// What symbols exceed weights by.
    offset: i32,
    /// x₀, in the activation's own type.
    x_zero: i32,
    /// What packed activations fall short of the real ones by.
    shift: i32,
    /// Whether the sums are of bytes, Σ (w + offset − 128)(x − shift + 128), and not of symbols and packed activations,
    /// Σ (w + offset)(x − shift). Those of int8 weights and uint8 activations are Σ w·x.
    bytes: bool,
}

/// Turns a kernel's sums into Σ (x − x₀)(w − w₀) + bias.
pub(super) struct Correction<'a> {
    /// Per column: bias and all that does not depend on the row.
    columns: &'a [i32],
    /// What the sum of a row's packed activations is multiplied by: w₀ and what is added to weights in the sums; for all columns
    /// or one a column.
    weight: WeightTerm<'a>,
}

impl<'a> Correction<'a> {
    /// What it holds is in `columns` and `weights`.
    fn new(
        kernel: &dyn RowKernel,
        (columns, weights): (&'a mut Vec<i32>, &'a mut Vec<i32>),
        factors: &Factors<'_>,
        operands: &Operands<'_>,
    ) -> Result<Self, Error> {
        const WHAT: &str = "corrections of columns";
        let &Factors { k, column_sums, offset, x_zero, shift, bytes } = factors;
        let k = k as i32;
        // Sums are Σ (w + a)(x + b); those of columns, Σ (w + offset), are made Σ (w + a), which meet x₀ + b.
        let middle = if bytes { SHIFT } else { 0 };
        let (w_offset, excess) = (offset.wrapping_sub(middle), middle.wrapping_mul(k));
        let x_zero_of_sums = x_zero.wrapping_sub(shift).wrapping_add(middle);
        let weight = match operands.w_zero_point {
            ZeroPoint::None => WeightTerm::Scalar(w_offset),
            ZeroPoint::Scalar(z) => WeightTerm::Scalar(w_offset.wrapping_add(z)),
            // Quantisers write a zero for each column of symmetric weights; kernels are faster with one for all.
            ZeroPoint::PerColumn([z, rest @ ..]) if rest.iter().all(|other| other == z) => {
                WeightTerm::Scalar(w_offset.wrapping_add(*z))
            }
            ZeroPoint::PerColumn(z) => {
                refill(weights, z.iter().map(|z| w_offset.wrapping_add(*z)), "zero points of columns")?;
                WeightTerm::PerColumn(weights)
            }
        };
        let kx = k.wrapping_mul(x_zero.wrapping_sub(shift));
        let both = |sum: &i32, weight: i32| {
            kx.wrapping_mul(weight).wrapping_sub(x_zero_of_sums.wrapping_mul(sum.wrapping_sub(excess)))
        };
        match weight {
            WeightTerm::Scalar(a) => {
                // Sums of 0 give what the others begin with.
                resize(columns, column_sums.len(), WHAT)?;
                kernel.column_terms(column_sums, x_zero_of_sums, both(&0, a), columns);
            }
            WeightTerm::PerColumn(a) => {
                refill(columns, column_sums.iter().zip(a).map(|(sum, a)| both(sum, *a)), WHAT)?;
            }
        }
        if let Some(bias) = operands.bias {
            columns.iter_mut().zip(bias).for_each(|(c, b)| *c = c.wrapping_add(*b));
        }
        Ok(Self { columns, weight })
    }

    /// For a block of some columns and of rows with these sums.
    pub fn terms<'b>(&'b self, columns: Range<usize>, row_sums: &'b [i32]) -> Terms<'b> {
        let weight = match self.weight {
            WeightTerm::Scalar(a) => WeightTerm::Scalar(a),
            WeightTerm::PerColumn(a) => WeightTerm::PerColumn(&a[columns.clone()]),
        };
        Terms { columns: &self.columns[columns], weight, row_sums }
    }
}

/// What is known once the activations are quantised.
pub(super) fn corrections<'a>(
    kernel: &dyn Multiplier,
    TermMemory { columns: of_columns, weights, scales }: &'a mut TermMemory,
    weight: &PreparedWeight,
    columns: Columns,
    call: &MatmulCall<'_>,
    scale: ScalarOrPerColumn<'_>,
    quantizer: Option<Quantizer>,
) -> Result<(Correction<'a>, Scales<'a>), Error> {
    let operands = &call.operands;
    let x_zero = quantizer.map_or(operands.x_zero_point, |by| i32::from(by.zero_point));
    let factors = Factors {
        k: weight.k(),
        column_sums: &weight.column_sums[columns.range()],
        offset: weight.weight_type().offset(),
        x_zero,
        shift: call.x.shift(),
        bytes: weight.products(call.x.shift()).sums_bytes(),
    };
    let correction = Correction::new(kernel.rows(), (of_columns, weights), &factors, operands)?;
    Ok((correction, Scales::new(scales, scale, quantizer.map(|by| by.scale).or(operands.x_scale))?))
}

/// The output's scales, multiplied with that of the activations if they have one.
pub(super) enum Scales<'m> {
    AsTheyAre,
    All(f32),
    PerColumn(&'m [f32]),
}

impl<'m> Scales<'m> {
    fn new(memory: &'m mut Vec<f32>, scale: ScalarOrPerColumn<'_>, factor: Option<f32>) -> Result<Self, Error> {
        Ok(match (scale, factor) {
            (_, None) => Self::AsTheyAre,
            (ScalarOrPerColumn::Scalar(scale), Some(factor)) => Self::All(factor * scale),
            (ScalarOrPerColumn::PerColumn(scales), Some(factor)) => {
                refill(memory, scales.iter().map(|scale| factor * scale), "scales of columns")?;
                Self::PerColumn(memory)
            }
        })
    }

    /// These, or the output's own if they are as they are.
    pub fn or<'a>(&'a self, own: ScalarOrPerColumn<'a>) -> ScalarOrPerColumn<'a> {
        match self {
            Self::AsTheyAre => own,
            Self::All(scale) => ScalarOrPerColumn::Scalar(*scale),
            Self::PerColumn(scales) => ScalarOrPerColumn::PerColumn(scales),
        }
    }
}
