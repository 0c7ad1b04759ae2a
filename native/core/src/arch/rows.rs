//! Work on whole rows, around the products: packing of activations, and from sums to outputs.
//!
//! These are plain loops, marked to be inlined, so that each kernel compiles them with its own instructions. Every float
//! operation is one IEEE-754 fp32 operation, rounded to nearest even; none are fused, for the graph that was lowered did
//! them one by one.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// A row of activations, as the model has it.
#[derive(Debug, Clone, Copy)]
pub enum ActivationRow<'a> {
    /// uint8; kernels see x − 128.
    U8(&'a [u8]),
    /// int8.
    I8(&'a [i8]),
}

/// fp32 values, one for all columns or one a column.
#[derive(Debug, Clone, Copy)]
pub enum Vector<'a> {
    /// The same for all columns.
    Scalar(f32),
    /// (n,).
    PerColumn(&'a [f32]),
}

impl<'a> Vector<'a> {
    /// Those of columns `j0` to `j0 + count`.
    pub fn columns(&self, j0: usize, count: usize) -> Self {
        match self {
            Self::Scalar(v) => Self::Scalar(*v),
            Self::PerColumn(v) => Self::PerColumn(&v[j0..j0 + count]),
        }
    }
}

/// What turns the sums of a row into Σ (x − x₀)(w − w₀) + bias: `column[j] − weight[j] · row_sum` is added.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Per column: all that does not depend on the row.
    pub columns: &'a [i32],
    /// What the kernels' weights exceed the true ones by.
    pub weight: WeightTerm<'a>,
    /// Σₖ of the packed row.
    pub row_sum: i32,
}

/// See [`Terms::weight`].
#[derive(Debug, Clone, Copy)]
pub enum WeightTerm<'a> {
    /// One for all columns.
    Scalar(i32),
    /// One a column.
    PerColumn(&'a [i32]),
}

/// A row of the output; all parts have as many columns as the sums.
#[derive(Debug)]
pub enum OutputRow<'a> {
    /// The sums.
    I32(&'a mut [i32]),
    /// fp32(sum) · scale (+ addend).
    F32(&'a mut [f32], Vector<'a>, Option<Vector<'a>>),
    /// As `F32`, rounded to fp16 (bits) at the end.
    F16(&'a mut [u16], Vector<'a>, Option<Vector<'a>>),
    /// Requantised to uint8, with the zero point.
    U8(&'a mut [u8], Vector<'a>, i32),
    /// Requantised to int8, with the zero point.
    I8(&'a mut [i8], Vector<'a>, i32),
}

/// Columns that are finished at a time.
const CHUNK: usize = 64;

/// Packs a row for the kernels; its sum.
#[inline(always)]
pub fn pack(from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
    let mut sum = 0i32;
    match from {
        ActivationRow::U8(from) => {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = (from ^ 0x80) as i8;
                sum = sum.wrapping_add(i32::from(*to));
            }
        }
        ActivationRow::I8(from) => {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from;
                sum = sum.wrapping_add(i32::from(from));
            }
        }
    }
    sum
}

/// Finishes a row: corrects its sums and writes the output, a chunk at a time.
#[inline(always)]
pub fn finish(sums: &[i32], terms: &Terms<'_>, mut out: OutputRow<'_>) {
    for (i, sums) in sums.chunks(CHUNK).enumerate() {
        let (j0, count) = (i * CHUNK, sums.len());
        let mut corrected = [0i32; CHUNK];
        let corrected = &mut corrected[..count];
        let columns = &terms.columns[j0..j0 + count];
        match terms.weight {
            WeightTerm::Scalar(weight) => {
                let row = weight.wrapping_mul(terms.row_sum);
                for ((to, sum), column) in corrected.iter_mut().zip(sums).zip(columns) {
                    *to = sum.wrapping_add(*column).wrapping_sub(row);
                }
            }
            WeightTerm::PerColumn(weight) => {
                let weight = &weight[j0..j0 + count];
                for (((to, sum), column), weight) in corrected.iter_mut().zip(sums).zip(columns).zip(weight) {
                    *to = sum.wrapping_add(*column).wrapping_sub(weight.wrapping_mul(terms.row_sum));
                }
            }
        }
        write(corrected, j0, &mut out);
    }
}

/// Writes a chunk of corrected sums to the columns from `j0` on.
#[inline(always)]
fn write(sums: &[i32], j0: usize, out: &mut OutputRow<'_>) {
    let count = sums.len();
    let mut floats = [0f32; CHUNK];
    let floats = &mut floats[..count];
    match out {
        OutputRow::I32(out) => out[j0..j0 + count].copy_from_slice(sums),
        OutputRow::F32(out, scale, addend) => {
            let addend = addend.map(|a| a.columns(j0, count));
            dequantise(sums, scale.columns(j0, count), addend, &mut out[j0..j0 + count]);
        }
        OutputRow::F16(out, scale, addend) => {
            let addend = addend.map(|a| a.columns(j0, count));
            dequantise(sums, scale.columns(j0, count), addend, floats);
            let mut halves = [f16::ZERO; CHUNK];
            halves[..count].convert_from_f32_slice(floats);
            out[j0..j0 + count].iter_mut().zip(halves).for_each(|(out, half)| *out = half.to_bits());
        }
        OutputRow::U8(out, scale, zero) => {
            dequantise(sums, scale.columns(j0, count), None, floats);
            for (out, v) in out[j0..j0 + count].iter_mut().zip(floats) {
                *out = requantise(*v, *zero, 0, 255) as u8;
            }
        }
        OutputRow::I8(out, scale, zero) => {
            dequantise(sums, scale.columns(j0, count), None, floats);
            for (out, v) in out[j0..j0 + count].iter_mut().zip(floats) {
                *out = requantise(*v, *zero, -128, 127) as i8;
            }
        }
    }
}

/// `fp32(sum) · scale (+ addend)`.
#[inline(always)]
fn dequantise(sums: &[i32], scale: Vector<'_>, addend: Option<Vector<'_>>, out: &mut [f32]) {
    match scale {
        Vector::Scalar(scale) => out.iter_mut().zip(sums).for_each(|(out, &s)| *out = s as f32 * scale),
        Vector::PerColumn(scale) => {
            out.iter_mut().zip(sums).zip(scale).for_each(|((out, &s), scale)| *out = s as f32 * scale);
        }
    }
    match addend {
        None => {}
        Some(Vector::Scalar(addend)) => out.iter_mut().for_each(|out| *out += addend),
        Some(Vector::PerColumn(addend)) => out.iter_mut().zip(addend).for_each(|(out, a)| *out += a),
    }
}

/// Clamps to the type's range less the zero point, rounds half to even, adds the zero point: the order in which
/// onnxruntime requantises. NaN becomes the lowest value.
#[inline(always)]
fn requantise(v: f32, zero: i32, low: i32, high: i32) -> i32 {
    let v = v.max((low - zero) as f32).min((high - zero) as f32);
    v.round_ties_even() as i32 + zero
}
