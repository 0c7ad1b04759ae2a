//! Work on whole rows, around the products: packing of activations, and from sums to outputs.
//!
//! These are plain loops, marked to be inlined, so that each kernel compiles them with its own instructions. Every float
//! operation is one IEEE-754 fp32 operation, rounded to nearest even; none are fused, for the graph that was lowered did
//! them one by one.

use super::operands::reach;
use crate::geometry::GROUP;
use half::f16;
use std::marker::PhantomData;

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

    /// Copies those of the columns from `j0` on.
    #[inline(always)]
    pub fn copy_to(&self, j0: usize, to: &mut [f32]) {
        match self {
            Self::Scalar(v) => to.fill(*v),
            Self::PerColumn(v) => to.copy_from_slice(&v[j0..j0 + to.len()]),
        }
    }
}

/// Matrices as the output is, whose elements the float results are multiplied with and then added to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Elementwise<'a> {
    /// Factors.
    pub gate: Option<&'a [f32]>,
    /// Added behind that.
    pub residual: Option<&'a [f32]>,
}

impl<'a> Elementwise<'a> {
    /// Those from element `at` on.
    pub fn from(&self, at: usize) -> Self {
        let from = |all: &'a [f32]| &all[at..];
        Self { gate: self.gate.map(from), residual: self.residual.map(from) }
    }

    /// Whether each that is there reaches over `rows` rows of `columns` elements, `stride` apart.
    pub fn covers(&self, rows: usize, columns: usize, stride: usize) -> bool {
        let covers = |of: &[f32]| reach(rows, stride, columns).is_some_and(|reach| reach <= of.len());
        [self.gate, self.residual].into_iter().flatten().all(covers)
    }
}

/// What turns the sums of a block into Σ (x − x₀)(w − w₀) + bias: `columns[j] − weight[j] · row_sums[i]` is added.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Per column: all that does not depend on the row.
    pub columns: &'a [i32],
    /// What the kernels' weights exceed the true ones by.
    pub weight: WeightTerm<'a>,
    /// Σₖ of each packed row.
    pub row_sums: &'a [i32],
}

/// See [`Terms::weight`].
#[derive(Debug, Clone, Copy)]
pub enum WeightTerm<'a> {
    /// One for all columns.
    Scalar(i32),
    /// One a column.
    PerColumn(&'a [i32]),
}

/// Rows of a part of the output, which no one else has meanwhile.
#[derive(Debug)]
pub struct Part<'a, T> {
    at: *mut T,
    stride: usize,
    rows: usize,
    columns: usize,
    owned: PhantomData<&'a mut [T]>,
}

impl<T> Part<'_, T> {
    /// # Safety
    /// `rows` rows of `columns` elements, `stride` apart from `at` on, can be written, and no one else has them for 'a.
    pub unsafe fn new(at: *mut T, stride: usize, rows: usize, columns: usize) -> Self {
        Self { at, stride, rows, columns, owned: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Length of rows.
    pub fn columns(&self) -> usize {
        self.columns
    }
    /// Distance of rows.
    pub fn stride(&self) -> usize {
        self.stride
    }
    /// The first element of the first row.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.at
    }
    /// Row `i`.
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: the row exists and is ours, as `new` was promised; the borrow of `self` keeps a second one away.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(i * self.stride), self.columns) }
    }
}

/// A block of the output; scales and addends are those of its columns, gate and residual begin at its first element.
#[derive(Debug)]
pub enum OutputBlock<'a> {
    /// The sums.
    I32(Part<'a, i32>),
    /// fp32(sum) · scale (+ addend) (· gate) (+ residual).
    F32(Part<'a, f32>, Vector<'a>, Option<Vector<'a>>, Elementwise<'a>),
    /// As `F32`, rounded to fp16 (bits) at the end.
    F16(Part<'a, u16>, Vector<'a>, Option<Vector<'a>>),
    /// Requantised to uint8, with the zero point.
    U8(Part<'a, u8>, Vector<'a>, i32),
    /// Requantised to int8, with the zero point.
    I8(Part<'a, i8>, Vector<'a>, i32),
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

/// Rounds to fp16 (bits), half to even; lengths are the same.
///
/// In software, for what the crate `half` does otherwise depends on the processor and not on the kernel.
#[inline(always)]
pub fn to_halves(floats: &[f32], halves: &mut [u16]) {
    floats.iter().zip(halves).for_each(|(float, half)| *half = f16::from_f32_const(*float).to_bits());
}

/// Finishes a block: corrects its sums, rows `stride` apart, and writes the output, a chunk of columns after the other.
/// `to_halves` is [`to_halves`], or gives the same.
#[inline(always)]
pub fn finish(
    sums: &[i32],
    stride: usize,
    terms: &Terms<'_>,
    mut out: OutputBlock<'_>,
    to_halves: impl Fn(&[f32], &mut [u16]) + Copy,
) {
    for j0 in (0..terms.columns.len()).step_by(CHUNK) {
        let count = CHUNK.min(terms.columns.len() - j0);
        // A length that the compiler knows turns the loops into a few vector instructions.
        if count == CHUNK {
            finish_chunk(&sums[j0..], stride, terms, j0, CHUNK, &mut out, to_halves);
        } else {
            finish_chunk(&sums[j0..], stride, terms, j0, count, &mut out, to_halves);
        }
    }
}

/// Finishes the `count` columns from `j0` on.
#[inline(always)]
fn finish_chunk(
    sums: &[i32],
    stride: usize,
    terms: &Terms<'_>,
    j0: usize,
    count: usize,
    out: &mut OutputBlock<'_>,
    to_halves: impl Fn(&[f32], &mut [u16]),
) {
    let columns = &terms.columns[j0..j0 + count];
    let mut weights = [0i32; CHUNK];
    match terms.weight {
        WeightTerm::Scalar(weight) => weights[..count].fill(weight),
        WeightTerm::PerColumn(weight) => weights[..count].copy_from_slice(&weight[j0..j0 + count]),
    }
    let (mut scales, mut addends) = ([0f32; CHUNK], [0f32; CHUNK]);
    let mut added = false;
    match out {
        OutputBlock::I32(_) => {}
        OutputBlock::F32(_, scale, addend, _) | OutputBlock::F16(_, scale, addend) => {
            scale.copy_to(j0, &mut scales[..count]);
            if let Some(addend) = addend {
                addend.copy_to(j0, &mut addends[..count]);
                added = true;
            }
        }
        OutputBlock::U8(_, scale, _) | OutputBlock::I8(_, scale, _) => scale.copy_to(j0, &mut scales[..count]),
    }
    let (weights, scales, addends) = (&weights[..count], &scales[..count], &addends[..count]);
    for (i, &row_sum) in terms.row_sums.iter().enumerate() {
        let sums = &sums[i * stride..][..count];
        let corrected = sums
            .iter()
            .zip(columns)
            .zip(weights)
            .map(|((sum, column), weight)| sum.wrapping_add(*column).wrapping_sub(weight.wrapping_mul(row_sum)));
        let scaled = corrected.clone().zip(scales).map(|(sum, scale)| sum as f32 * scale);
        let mut floats = [0f32; CHUNK];
        let floats = &mut floats[..count];
        match out {
            OutputBlock::I32(out) => {
                out.row(i)[j0..j0 + count].iter_mut().zip(corrected).for_each(|(out, sum)| *out = sum);
            }
            OutputBlock::F32(out, .., elementwise) => {
                let at = i * out.stride() + j0;
                let out = &mut out.row(i)[j0..j0 + count];
                if added {
                    out.iter_mut().zip(scaled).zip(addends).for_each(|((out, v), addend)| *out = v + addend);
                } else {
                    out.iter_mut().zip(scaled).for_each(|(out, v)| *out = v);
                }
                if let Some(gate) = elementwise.gate {
                    out.iter_mut().zip(&gate[at..][..count]).for_each(|(out, gate)| *out *= gate);
                }
                if let Some(residual) = elementwise.residual {
                    out.iter_mut().zip(&residual[at..][..count]).for_each(|(out, residual)| *out += residual);
                }
            }
            OutputBlock::F16(out, ..) => {
                if added {
                    floats.iter_mut().zip(scaled).zip(addends).for_each(|((to, v), addend)| *to = v + addend);
                } else {
                    floats.iter_mut().zip(scaled).for_each(|(to, v)| *to = v);
                }
                to_halves(floats, &mut out.row(i)[j0..j0 + count]);
            }
            OutputBlock::U8(out, _, zero) => {
                floats.iter_mut().zip(scaled).for_each(|(to, v)| *to = v);
                for (out, v) in out.row(i)[j0..j0 + count].iter_mut().zip(floats) {
                    *out = requantise(*v, *zero, 0, 255) as u8;
                }
            }
            OutputBlock::I8(out, _, zero) => {
                floats.iter_mut().zip(scaled).for_each(|(to, v)| *to = v);
                for (out, v) in out.row(i)[j0..j0 + count].iter_mut().zip(floats) {
                    *out = requantise(*v, *zero, -128, 127) as i8;
                }
            }
        }
    }
}

/// Clamps to the type's range less the zero point, rounds half to even, adds the zero point: the order in which
/// onnxruntime requantises. NaN becomes the lowest value.
#[inline(always)]
fn requantise(v: f32, zero: i32, low: i32, high: i32) -> i32 {
    let v = v.max((low - zero) as f32).min((high - zero) as f32);
    v.round_ties_even() as i32 + zero
}

/// As [`TileKernel::write_rows`](super::TileKernel::write_rows).
///
/// # Safety
/// As there.
pub unsafe fn write_rows(panel: &[u8], flip: u8, out: *mut u8, stride: usize) {
    let flip = u32::from_ne_bytes([flip; 4]);
    for (g, group) in panel.chunks_exact(GROUP).enumerate() {
        for (i, quad) in group.chunks_exact(4).enumerate() {
            let quad = u32::from_ne_bytes(quad.try_into().expect("four bytes")) ^ flip;
            // SAFETY: group g has 4 bytes of each row, behind those of the groups in front of it.
            unsafe { out.add(i * stride + 4 * g).cast::<u32>().write_unaligned(quad) };
        }
    }
}
