//! Products of symbols in memory. They are taken as signed, 128 less, and the rows' sums make up for it.

use crate::arch::operands::{Extent, Rows};
use crate::geometry::{GROUP, PANEL};
use std::arch::aarch64::*;
use std::arch::asm;

/// Instructions for four products of each of four columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// The matrix product of ARMv8.6 (I8MM) for two rows and more; as `Dot` for one.
    Matrix,
    /// The dot product of ARMv8.2.
    Dot,
    /// A widening product, and a sum of neighbours.
    Widening,
}

/// Registers of four columns.
const QUARTERS: usize = PANEL / 4;

/// Adds the products of a tile's panels and all rows; rows of `acc` are `stride` apart.
///
/// # Safety
/// NEON, and the dot product if that or the matrix product is asked for, with the latter; the rows cover the extent.
pub unsafe fn multiply_panels(
    products: Products,
    symbols: &[u8],
    extent: Extent,
    rows: Rows<'_>,
    acc: &mut [i32],
    stride: usize,
) {
    let mut first = 0;
    while first < rows.m() {
        let (left, acc) = (rows.m() - first, &mut acc[first * stride..]);
        // As many rows at once as there are registers for: what is loaded of the weights serves them all.
        // SAFETY: the caller's contract.
        first += unsafe {
            match (products, left) {
                (Products::Matrix, 4..) => with_matrix::<2>(symbols, extent, rows, first, acc, stride),
                (Products::Matrix, 2..) => with_matrix::<1>(symbols, extent, rows, first, acc, stride),
                (Products::Matrix, _) => with_dot::<1>(symbols, extent, rows, first, acc, stride),
                (Products::Dot, 4..) => with_dot::<4>(symbols, extent, rows, first, acc, stride),
                (Products::Dot, _) => with_dot::<1>(symbols, extent, rows, first, acc, stride),
                (Products::Widening, 2..) => widening::<2>(symbols, extent, rows, first, acc, stride),
                (Products::Widening, _) => widening::<1>(symbols, extent, rows, first, acc, stride),
            }
        };
    }
}

#[target_feature(enable = "neon,dotprod")]
fn with_dot<const R: usize>(
    symbols: &[u8],
    extent: Extent,
    rows: Rows<'_>,
    first: usize,
    acc: &mut [i32],
    stride: usize,
) -> usize {
    block::<Dot, R>(symbols, extent, rows, first, acc, stride)
}

#[target_feature(enable = "neon")]
fn widening<const R: usize>(
    symbols: &[u8],
    extent: Extent,
    rows: Rows<'_>,
    first: usize,
    acc: &mut [i32],
    stride: usize,
) -> usize {
    block::<Widening, R>(symbols, extent, rows, first, acc, stride)
}

/// P pairs of rows from `first` on, and all panels; how many rows that were.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn with_matrix<const P: usize>(
    symbols: &[u8],
    extent: Extent,
    rows: Rows<'_>,
    first: usize,
    acc: &mut [i32],
    stride: usize,
) -> usize {
    let x: [[&[i8]; 2]; P] =
        std::array::from_fn(|p| std::array::from_fn(|r| &rows.row(first + 2 * p + r)[..extent.k()]));
    let lacking = x.map(|pair| pair.map(lacking));
    for (p, panel) in symbols.chunks_exact(extent.panel()).enumerate() {
        for (pair, columns) in matrix_products(panel, x).into_iter().enumerate() {
            for row in 0..2 {
                let acc = &mut acc[(2 * pair + row) * stride + p * PANEL..][..PANEL];
                for (products, sums) in columns.as_chunks::<2>().0.iter().zip(acc.as_chunks_mut::<4>().0) {
                    // SAFETY: four sums are what is read and written. A register has two columns of either row.
                    unsafe {
                        let [low, high] = products.map(|each| vreinterpretq_s64_s32(each));
                        let of_row = if row == 0 { vzip1q_s64(low, high) } else { vzip2q_s64(low, high) };
                        let more = vaddq_s32(vreinterpretq_s32_s64(of_row), vdupq_n_s32(lacking[pair][row]));
                        vst1q_s32(sums.as_mut_ptr(), vaddq_s32(vld1q_s32(sums.as_ptr()), more));
                    }
                }
            }
        }
    }
    2 * P
}

/// The products of P pairs of rows and a panel: a register has two columns, of the first row and of the second.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn matrix_products<const P: usize>(panel: &[u8], x: [[&[i8]; 2]; P]) -> [[int32x4_t; PANEL / 2]; P] {
    let mut columns = [[vdupq_n_s32(0); PANEL / 2]; P];
    for (step, groups) in panel.as_chunks::<{ 2 * GROUP }>().0.iter().enumerate() {
        // Eight values of a row are two groups; their four of a column come together.
        let rows = x.map(|pair| {
            let [first, second] =
                pair.map(|row| i64::from_le_bytes(std::array::from_fn(|i| row[8 * step + i] as u8)));
            vreinterpretq_s8_s64(vsetq_lane_s64::<1>(second, vdupq_n_s64(first)))
        });
        for quarter in 0..QUARTERS {
            // SAFETY: sixteen bytes are what is read.
            let [even, odd] = [0, GROUP].map(|at| unsafe {
                let weights = vld1q_u8(groups[at + 16 * quarter..][..16].as_ptr());
                vreinterpretq_u32_u8(veorq_u8(weights, vdupq_n_u8(0x80)))
            });
            for (half, weights) in [vzip1q_u32(even, odd), vzip2q_u32(even, odd)].into_iter().enumerate() {
                for (columns, rows) in columns.iter_mut().zip(rows) {
                    // SAFETY: nothing but the operand changes, and the feature is this function's.
                    unsafe {
                        asm!(
                            "smmla {sums:v}.4s, {rows:v}.16b, {weights:v}.16b",
                            sums = inout(vreg) columns[2 * quarter + half],
                            rows = in(vreg) rows,
                            weights = in(vreg) weights,
                            options(pure, nomem, nostack, preserves_flags),
                        );
                    }
                }
            }
        }
    }
    columns
}

/// What each column lacks, for a symbol is 128 more than what it is multiplied as.
fn lacking(x: &[i8]) -> i32 {
    x.iter().map(|&x| i32::from(x)).sum::<i32>().wrapping_mul(128)
}

/// R rows from `first` on, and all panels; how many rows that were.
#[inline(always)]
fn block<A: Accumulate, const R: usize>(
    symbols: &[u8],
    extent: Extent,
    rows: Rows<'_>,
    first: usize,
    acc: &mut [i32],
    stride: usize,
) -> usize {
    let x: [&[i8]; R] = std::array::from_fn(|r| &rows.row(first + r)[..extent.k()]);
    let lacking = x.map(lacking);
    for (p, panel) in symbols.chunks_exact(extent.panel()).enumerate() {
        let products: [[_; QUARTERS]; R] = panel_products::<A, R>(panel, x);
        for (r, columns) in products.into_iter().enumerate() {
            let sums: &mut [i32; PANEL] =
                acc[r * stride + p * PANEL..].first_chunk_mut().expect("accumulators cover the extent");
            for (columns, sums) in columns.into_iter().zip(sums.as_chunks_mut::<4>().0) {
                // SAFETY: the features are those of the function that this is inlined into; four sums are what is read
                // and written.
                unsafe {
                    let more = vaddq_s32(columns, vdupq_n_s32(lacking[r]));
                    vst1q_s32(sums.as_mut_ptr(), vaddq_s32(vld1q_s32(sums.as_ptr()), more));
                }
            }
        }
    }
    R
}

/// The products of R rows and a panel, four columns a register.
#[inline(always)]
fn panel_products<A: Accumulate, const R: usize>(panel: &[u8], x: [&[i8]; R]) -> [[int32x4_t; QUARTERS]; R] {
    // One row has two sets, so that no product waits for the one before it.
    // SAFETY: the features are those of the function that this is inlined into, here and below.
    let mut columns = [[[unsafe { A::zero() }; QUARTERS]; R]; 2];
    // A fractal has eight groups, so that they come in pairs.
    for (pair, groups) in panel.as_chunks::<{ 2 * GROUP }>().0.iter().enumerate() {
        for (odd, group) in groups.as_chunks::<GROUP>().0.iter().enumerate() {
            let set = if R == 1 { odd } else { 0 };
            let at = (2 * pair + odd) * 4;
            let weights: [int8x16_t; QUARTERS] = std::array::from_fn(|q| {
                // SAFETY: sixteen bytes are what is read.
                unsafe { vreinterpretq_s8_u8(veorq_u8(vld1q_u8(group[16 * q..][..16].as_ptr()), vdupq_n_u8(0x80))) }
            });
            for (columns, x) in columns[set].iter_mut().zip(x) {
                let x = i32::from_le_bytes(std::array::from_fn(|i| x[at + i] as u8));
                for (columns, weights) in columns.iter_mut().zip(weights) {
                    // SAFETY: as above.
                    unsafe { columns.add(weights, vreinterpretq_s8_s32(vdupq_n_s32(x))) };
                }
            }
        }
    }
    let [even, odd] = columns;
    std::array::from_fn(|r| {
        std::array::from_fn(|q| {
            // SAFETY: as above.
            unsafe { if R == 1 { vaddq_s32(even[r][q].sums(), odd[r][q].sums()) } else { even[r][q].sums() } }
        })
    })
}

/// The sums of four columns, on the way.
trait Accumulate: Copy {
    /// # Safety
    /// NEON.
    unsafe fn zero() -> Self;
    /// Adds four products for each of four columns.
    ///
    /// # Safety
    /// The features.
    unsafe fn add(&mut self, weights: int8x16_t, x: int8x16_t);
    /// # Safety
    /// NEON.
    unsafe fn sums(self) -> int32x4_t;
}

/// A column in each lane.
#[derive(Clone, Copy)]
struct Dot(int32x4_t);

impl Accumulate for Dot {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's contract.
        Self(unsafe { vdupq_n_s32(0) })
    }
    #[inline(always)]
    unsafe fn add(&mut self, weights: int8x16_t, x: int8x16_t) {
        // SAFETY: the caller's contract; nothing but the operand changes.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.16b",
                sums = inout(vreg) self.0,
                weights = in(vreg) weights,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    #[inline(always)]
    unsafe fn sums(self) -> int32x4_t {
        self.0
    }
}

/// A column in two lanes each: its even and its odd pairs of products. The first register has the first two columns.
#[derive(Clone, Copy)]
struct Widening([int32x4_t; 2]);

impl Accumulate for Widening {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's contract.
        Self([unsafe { vdupq_n_s32(0) }; 2])
    }
    #[inline(always)]
    unsafe fn add(&mut self, weights: int8x16_t, x: int8x16_t) {
        // SAFETY: the caller's contract. A product of two int8 fits 16 bits; the sum of two might not, and is made in 32.
        unsafe {
            let products = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
            self.0[0] = vpadalq_s16(self.0[0], products);
            self.0[1] = vpadalq_s16(self.0[1], vmull_high_s8(weights, x));
        }
    }
    #[inline(always)]
    unsafe fn sums(self) -> int32x4_t {
        // SAFETY: the caller's contract.
        unsafe { vpaddq_s32(self.0[0], self.0[1]) }
    }
}
