//! Work on whole rows, around the products: packing of activations, and from sums to outputs.
//!
//! These are plain loops, marked to be inlined, so that each kernel compiles them with its own instructions. Every float
//! operation is one IEEE-754 fp32 operation, rounded to nearest even; none are fused, for the graph that was lowered did
//! them one by one.

use super::operands::{ByteRows, PIECE_K, Pieces, Rows};
use super::output::{Destination, Elementwise, Epilogue, Output};
use crate::geometry::{GROUP, PANEL};
use half::f16;
use std::mem::MaybeUninit;

/// A row of activations, as the model has it.
#[derive(Debug, Clone, Copy)]
pub enum ActivationRow<'a> {
    /// uint8; kernels see x − 128.
    U8(&'a [u8]),
    /// int8.
    I8(&'a [i8]),
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

/// Columns of a step of the epilogue.
const CHUNK: usize = 64;

/// Σ (x − 128) of the first k uint8 activations of each row, where they lie; they wrap, like the products.
#[inline(always)]
pub fn sums(rows: Rows<'_>, k: usize, sums: &mut [i32]) {
    let of = |bytes: &[i8]| bytes.iter().map(|x| u32::from(x.cast_unsigned())).fold(0, u32::wrapping_add);
    let middle = (k as u32).wrapping_mul(128);
    assert!(sums.len() == rows.m() && rows.covers(k));
    for (i, sum) in sums.iter_mut().enumerate() {
        let all = match rows.pieces() {
            None => of(&rows.row(i)[..k]),
            Some(Pieces { rows: places, blocks }) => {
                let row = &rows.data()[places[i] as usize..];
                let pieces = blocks[..k / PIECE_K].iter().map(|at| of(&row[*at as usize..][..PIECE_K]));
                pieces.fold(0, u32::wrapping_add)
            }
        };
        *sum = all.wrapping_sub(middle).cast_signed();
    }
}

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

/// `base − factor · sum` for each column's sum, in integers that wrap.
#[inline(always)]
pub fn column_terms(sums: &[i32], factor: i32, base: i32, terms: &mut [i32]) {
    for (term, sum) in terms.iter_mut().zip(sums) {
        *term = base.wrapping_sub(factor.wrapping_mul(*sum));
    }
}

/// Runs of numbers, each with a factor.
#[derive(Debug, Clone, Copy)]
pub struct WeightedRuns<'a> {
    /// 255 at the most, of either sign, as factors are: what processors add up of two products fits 32 bits.
    pub values: &'a [i16],
    /// Where runs begin.
    pub starts: &'a [usize],
    pub factors: &'a [i16],
}

impl WeightedRuns<'_> {
    /// Whether all of them are so long, and each has a factor.
    pub fn covers(&self, len: usize) -> bool {
        let room = self.values.len().checked_sub(len);
        let within = |&start: &usize| room.is_some_and(|room| start <= room);
        self.starts.len() == self.factors.len() && self.starts.iter().all(within)
    }
}

/// Sums that are made together.
const SUMS: usize = 32;

/// `base` and all runs, each times its factor; sums wrap.
///
/// # Panics
/// If a run is shorter than the sums.
#[inline(always)]
pub fn weighted_sums(base: i32, runs: WeightedRuns<'_>, sums: &mut [i32]) {
    assert!(runs.covers(sums.len()));
    for (block, sums) in sums.chunks_mut(SUMS).enumerate() {
        sums.fill(base);
        for (start, factor) in runs.starts.iter().zip(runs.factors) {
            let run = &runs.values[start + block * SUMS..][..sums.len()];
            for (sum, value) in sums.iter_mut().zip(run) {
                *sum = sum.wrapping_add(i32::from(*value) * i32::from(*factor));
            }
        }
    }
}

/// Sums as floats, times a scale; an addend is added behind that.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn scaled(sums: &[i32], scale: f32, addend: Option<f32>, to: &mut [MaybeUninit<f32>]) {
    assert_eq!(sums.len(), to.len(), "as many floats as sums");
    let pairs = to.iter_mut().zip(sums);
    match addend {
        Some(addend) => pairs.for_each(|(to, &sum)| _ = to.write(sum as f32 * scale + addend)),
        None => pairs.for_each(|(to, &sum)| _ = to.write(sum as f32 * scale)),
    }
}

/// Rounds to fp16 (bits), half to even; lengths are the same.
///
/// In software, for what the crate `half` does otherwise depends on the processor and not on the kernel.
#[inline(always)]
pub fn to_halves(floats: &[f32], halves: &mut [u16]) {
    floats.iter().zip(halves).for_each(|(float, half)| *half = f16::from_f32_const(*float).to_bits());
}

/// Makes the outputs of a block: corrects its sums, rows `stride` apart, and writes, a chunk of columns after the other.
/// `to_halves` is [`to_halves`], or gives the same.
#[inline(always)]
pub fn epilogue(
    sums: &[i32],
    stride: usize,
    terms: &Terms<'_>,
    mut out: Output<'_>,
    to_halves: impl Fn(&[f32], &mut [u16]) + Copy,
) {
    for j0 in (0..terms.columns.len()).step_by(CHUNK) {
        let count = CHUNK.min(terms.columns.len() - j0);
        // A length that the compiler knows turns the loops into a few vector instructions.
        if count == CHUNK {
            epilogue_of_chunk(&sums[j0..], stride, terms, j0, CHUNK, &mut out, to_halves);
        } else {
            epilogue_of_chunk(&sums[j0..], stride, terms, j0, count, &mut out, to_halves);
        }
    }
}

/// Makes the outputs of the `count` columns from `j0` on.
#[inline(always)]
fn epilogue_of_chunk(
    sums: &[i32],
    stride: usize,
    terms: &Terms<'_>,
    j0: usize,
    count: usize,
    out: &mut Output<'_>,
    to_halves: impl Fn(&[f32], &mut [u16]),
) {
    let columns = &terms.columns[j0..j0 + count];
    let (mut weights, mut scales, mut addends) = ([0i32; CHUNK], [0f32; CHUNK], [0f32; CHUNK]);
    match terms.weight {
        WeightTerm::Scalar(weight) => weights[..count].fill(weight),
        WeightTerm::PerColumn(weight) => weights[..count].copy_from_slice(&weight[j0..j0 + count]),
    }
    out.epilogue.scale().copy_to(j0, &mut scales[..count]);
    let added = out.epilogue.addend().inspect(|addend| addend.copy_to(j0, &mut addends[..count])).is_some();
    let (weights, scales, addends) = (&weights[..count], &scales[..count], &addends[..count]);
    for (i, &row_sum) in terms.row_sums.iter().enumerate() {
        let sums = &sums[i * stride..][..count];
        let corrected = sums
            .iter()
            .zip(columns)
            .zip(weights)
            .map(|((sum, column), weight)| sum.wrapping_add(*column).wrapping_sub(weight.wrapping_mul(row_sum)));
        let scaled = corrected.clone().zip(scales).map(|(sum, scale)| sum as f32 * scale);
        let offset = scaled.clone().zip(addends).map(|(v, addend)| v + addend);
        let floats = &mut [0f32; CHUNK][..count];
        match (&mut out.destination, &out.epilogue) {
            (Destination::I32(out), Epilogue::Sums) => _ = written(&mut out.row(i)[j0..j0 + count], corrected),
            (Destination::F32(out), Epilogue::Dequantize { elementwise, .. }) => {
                let at = i * out.stride() + j0;
                let row = &mut out.row(i)[j0..j0 + count];
                let row = if added { written(row, offset) } else { written(row, scaled) };
                combine(row, elementwise, at);
            }
            (Destination::F16(out), Epilogue::Dequantize { .. }) => {
                if added {
                    copy(offset, floats)
                } else {
                    copy(scaled, floats)
                }
                let mut halves = [0; CHUNK];
                to_halves(floats, &mut halves[..count]);
                written(&mut out.row(i)[j0..j0 + count], halves.into_iter().take(count));
            }
            (Destination::U8(out), Epilogue::Requantize { zero_point, .. }) => {
                copy(scaled, floats);
                let bytes = floats.iter().map(|v| requantize(*v, *zero_point, 0, 255) as u8);
                written(&mut out.row(i)[j0..j0 + count], bytes);
            }
            (Destination::I8(out), Epilogue::Requantize { zero_point, .. }) => {
                copy(scaled, floats);
                let bytes = floats.iter().map(|v| requantize(*v, *zero_point, -128, 127) as i8);
                written(&mut out.row(i)[j0..j0 + count], bytes);
            }
            _ => unreachable!("`Output::mismatch` was asked before"),
        }
    }
}

/// Multiplies part of a row with a gate and adds a residual, where there are any; `at` is its place in the output.
#[inline(always)]
fn combine(row: &mut [f32], elementwise: &Elementwise<'_>, at: usize) {
    let len = row.len();
    if let Some(gate) = elementwise.gate {
        row.iter_mut().zip(&gate[at..][..len]).for_each(|(out, gate)| *out *= gate);
    }
    if let Some(residual) = elementwise.residual {
        row.iter_mut().zip(&residual[at..][..len]).for_each(|(out, residual)| *out += residual);
    }
}

/// Copies as many values as there is room for.
#[inline(always)]
fn copy(values: impl Iterator<Item = f32>, to: &mut [f32]) {
    to.iter_mut().zip(values).for_each(|(to, v)| *to = v);
}

/// Writes as many values as there is room for.
///
/// # Panics
/// If there are fewer.
#[inline(always)]
fn written<T>(out: &mut [MaybeUninit<T>], values: impl Iterator<Item = T>) -> &mut [T] {
    let mut count = 0;
    for (out, value) in out.iter_mut().zip(values) {
        out.write(value);
        count += 1;
    }
    assert_eq!(count, out.len());
    // SAFETY: every element was written, as was just counted; the layout is the same.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [T]) }
}

/// Clamps to the type's range less the zero point, rounds half to even, adds the zero point: the order in which
/// onnxruntime requantises. NaN becomes the lowest value.
#[inline(always)]
fn requantize(v: f32, zero: i32, low: i32, high: i32) -> i32 {
    let v = v.max((low - zero) as f32).min((high - zero) as f32);
    v.round_ties_even() as i32 + zero
}

/// As [`RowKernel::write_rows`](super::RowKernel::write_rows).
///
/// # Safety
/// As there.
pub unsafe fn write_rows(panel: &[u8], ByteRows { at: out, stride, flip, .. }: ByteRows) {
    let flip = u32::from_ne_bytes([flip; 4]);
    for (g, group) in panel.chunks_exact(GROUP).enumerate() {
        for (i, quad) in group.chunks_exact(4).enumerate() {
            let quad = u32::from_ne_bytes(quad.try_into().expect("four bytes")) ^ flip;
            // SAFETY: group g has 4 bytes of each row, behind those of the groups in front of it.
            unsafe { out.add(i * stride + 4 * g).cast::<u32>().write_unaligned(quad) };
        }
    }
}

/// Panels side by side, or the first groups of each.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    symbols: &'a [u8],
    stride: usize,
    groups: usize,
}

impl<'a> Panels<'a> {
    /// The first `groups` of each panel of `symbols`; panels begin `stride` bytes apart.
    ///
    /// # Panics
    /// If a panel has not so many.
    pub fn new(symbols: &'a [u8], stride: usize, groups: usize) -> Self {
        assert!(groups * GROUP <= stride && symbols.len().is_multiple_of(stride), "whole panels");
        Self { symbols, stride, groups }
    }
    /// How many they are.
    pub fn count(&self) -> usize {
        self.symbols.len() / self.stride
    }
    /// Groups of each that are meant.
    pub fn groups(&self) -> usize {
        self.groups
    }
    /// Group `g` of panel `p`.
    #[inline(always)]
    pub fn group(&self, p: usize, g: usize) -> &'a [u8; GROUP] {
        self.symbols[p * self.stride + g * GROUP..].first_chunk().expect("a group has 64 symbols")
    }
}

/// As [`RowKernel::write_columns`](super::RowKernel::write_columns).
///
/// # Safety
/// As there.
pub unsafe fn write_columns(panels: Panels<'_>, ByteRows { at: out, stride, flip, .. }: ByteRows) {
    // Panels inside, here and in every kernel: so cache lines are written from end to end.
    for g in 0..panels.groups() {
        for p in 0..panels.count() {
            let group = panels.group(p, g);
            for l in 0..4 {
                let column: [u8; PANEL] = std::array::from_fn(|i| group[4 * i + l] ^ flip);
                // SAFETY: group g has 4 places along k, behind those of the groups in front of it; a panel has 16 columns.
                unsafe { out.add((4 * g + l) * stride + p * PANEL).cast::<[u8; PANEL]>().write_unaligned(column) };
            }
        }
    }
}
