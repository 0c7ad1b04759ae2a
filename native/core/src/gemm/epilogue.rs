//! From integer sums to the output: zero points, bias, scale, addend, rounding.
//!
//! Every float operation is one IEEE-754 fp32 operation, rounded to nearest even; none are fused, for the graph that
//! was lowered did them one by one.

use super::ZeroPoint;
use half::f16;

/// fp32 values, one for all columns or one a column.
#[derive(Debug, Clone, Copy)]
pub enum Vector<'a> {
    /// The same for all columns.
    Scalar(f32),
    /// (n,).
    PerColumn(&'a [f32]),
}

impl Vector<'_> {
    #[inline]
    fn at(&self, j: usize) -> f32 {
        match self {
            Self::Scalar(v) => *v,
            Self::PerColumn(v) => v[j],
        }
    }

    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Scalar(_) => None,
            Self::PerColumn(v) => Some(v.len()),
        }
    }
}

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
    /// `fp32(acc) · scale (+ addend)`.
    F32 {
        /// (m, n).
        out: &'a mut [f32],
        /// Factor.
        scale: Vector<'a>,
        /// Added behind the multiplication.
        addend: Option<Vector<'a>>,
    },
    /// As `F32`, rounded to fp16 at the end (bits).
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

impl Output<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::I32(out) => out.len(),
            Self::F32 { out, .. } => out.len(),
            Self::F16 { out, .. } => out.len(),
            Self::Requant { out: QuantOut::U8(out), .. } => out.len(),
            Self::Requant { out: QuantOut::I8(out), .. } => out.len(),
        }
    }

    pub(super) fn vectors(&self) -> [Option<usize>; 2] {
        match self {
            Self::I32(_) => [None, None],
            Self::F32 { scale, addend, .. } | Self::F16 { scale, addend, .. } => {
                [scale.len(), addend.and_then(|a| a.len())]
            }
            Self::Requant { scale, .. } => [scale.len(), None],
        }
    }
}

/// An output that several threads write, each its own columns.
pub(super) struct SharedOutput<'a> {
    target: Target<'a>,
    n: usize,
}

enum Target<'a> {
    I32(*mut i32),
    F32(*mut f32, Vector<'a>, Option<Vector<'a>>),
    F16(*mut u16, Vector<'a>, Option<Vector<'a>>),
    U8(*mut u8, Vector<'a>, i32),
    I8(*mut i8, Vector<'a>, i32),
}

// SAFETY: the pointers come from exclusive borrows that last for 'a; `finish` is told by its contract to be called for
// each column by one thread only.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    /// Takes over the borrow of `output`, (m, n).
    pub fn new(output: Output<'a>, n: usize) -> Self {
        let target = match output {
            Output::I32(out) => Target::I32(out.as_mut_ptr()),
            Output::F32 { out, scale, addend } => Target::F32(out.as_mut_ptr(), scale, addend),
            Output::F16 { out, scale, addend } => Target::F16(out.as_mut_ptr(), scale, addend),
            Output::Requant { out: QuantOut::U8(out), scale, zero_point } => {
                Target::U8(out.as_mut_ptr(), scale, zero_point)
            }
            Output::Requant { out: QuantOut::I8(out), scale, zero_point } => {
                Target::I8(out.as_mut_ptr(), scale, zero_point)
            }
        };
        Self { target, n }
    }

    /// Finishes row `i`, columns `j0..j0 + acc.len()`, whose sums are corrected already.
    ///
    /// # Safety
    /// (i, those columns) lie inside the output, and no other thread writes them meanwhile.
    pub unsafe fn finish(&self, i: usize, j0: usize, acc: &[i32]) {
        let at = i * self.n + j0;
        let count = acc.len();
        // SAFETY: the caller owns these elements of an output that `self` borrows exclusively.
        unsafe {
            match &self.target {
                Target::I32(out) => std::slice::from_raw_parts_mut(out.add(at), count).copy_from_slice(acc),
                Target::F32(out, scale, addend) => {
                    let out = std::slice::from_raw_parts_mut(out.add(at), count);
                    dequantise(acc, j0, scale, addend, |j, v| out[j] = v);
                }
                Target::F16(out, scale, addend) => {
                    let out = std::slice::from_raw_parts_mut(out.add(at), count);
                    dequantise(acc, j0, scale, addend, |j, v| out[j] = f16::from_f32(v).to_bits());
                }
                Target::U8(out, scale, zero) => {
                    let out = std::slice::from_raw_parts_mut(out.add(at), count);
                    dequantise(acc, j0, scale, &None, |j, v| out[j] = requantise(v, *zero, 0, 255) as u8);
                }
                Target::I8(out, scale, zero) => {
                    let out = std::slice::from_raw_parts_mut(out.add(at), count);
                    dequantise(acc, j0, scale, &None, |j, v| out[j] = requantise(v, *zero, -128, 127) as i8);
                }
            }
        }
    }
}

/// Calls `put(j, fp32(acc[j]) · scale (+ addend))`.
#[inline]
fn dequantise(
    acc: &[i32],
    j0: usize,
    scale: &Vector<'_>,
    addend: &Option<Vector<'_>>,
    mut put: impl FnMut(usize, f32),
) {
    // The common cases apart, so that each is a plain loop over slices.
    match (scale, addend) {
        (Vector::Scalar(s), None) => acc.iter().enumerate().for_each(|(j, &a)| put(j, a as f32 * s)),
        (Vector::PerColumn(s), None) => {
            acc.iter().zip(&s[j0..]).enumerate().for_each(|(j, (&a, s))| put(j, a as f32 * s));
        }
        (Vector::Scalar(s), Some(Vector::PerColumn(b))) => {
            acc.iter().zip(&b[j0..]).enumerate().for_each(|(j, (&a, b))| put(j, a as f32 * s + b));
        }
        (s, b) => {
            for (j, &a) in acc.iter().enumerate() {
                let product = a as f32 * s.at(j0 + j);
                put(j, b.as_ref().map_or(product, |b| product + b.at(j0 + j)));
            }
        }
    }
}

/// Clamps to the type's range less the zero point, rounds half to even, adds the zero point: the order in which
/// onnxruntime requantises. NaN becomes the lowest value.
#[inline]
fn requantise(v: f32, zero: i32, low: i32, high: i32) -> i32 {
    let v = v.max((low - zero) as f32).min((high - zero) as f32);
    v.round_ties_even() as i32 + zero
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

    /// Corrects the sums of one row, columns from `j0` on.
    pub fn apply(&self, acc: &mut [i32], j0: usize, row_sum: i32) {
        let columns = &self.columns[j0..j0 + acc.len()];
        match &self.weight {
            WeightZero::Scalar(a) => {
                let row = a.wrapping_mul(row_sum);
                acc.iter_mut().zip(columns).for_each(|(v, c)| *v = v.wrapping_add(*c).wrapping_sub(row));
            }
            WeightZero::PerColumn(a) => {
                for ((v, c), a) in acc.iter_mut().zip(columns).zip(&a[j0..]) {
                    *v = v.wrapping_add(*c).wrapping_sub(a.wrapping_mul(row_sum));
                }
            }
        }
    }
}
