//! Products of symbols in memory. They are taken as signed, 128 less, and the rows' sums make up for it.

use crate::arch::operands::{Extent, Rows};
use crate::geometry::{GROUP, PANEL};
use std::arch::aarch64::*;
use std::arch::asm;

/// Instructions for four products of each of four columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
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
/// NEON, and the dot product if that is asked for; the rows cover the extent.
pub unsafe fn multiply_panels(
    products: Products,
    symbols: &[u8],
    extent: Extent,
    rows: Rows<'_>,
    acc: &mut [i32],
    stride: usize,
) {
    for i in 0..rows.m() {
        let x = &rows.row(i)[..extent.k()];
        // What each column lacks, for a symbol is 128 more than what it is multiplied as.
        let lacking = x.iter().map(|&x| i32::from(x)).sum::<i32>().wrapping_mul(128);
        for (p, panel) in symbols.chunks_exact(extent.panel()).enumerate() {
            let sums = acc[i * stride + p * PANEL..].first_chunk_mut().expect("accumulators cover the extent");
            // SAFETY: the caller's contract.
            unsafe {
                match products {
                    Products::Dot => with_dot(panel, x, lacking, sums),
                    Products::Widening => widening(panel, x, lacking, sums),
                }
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn with_dot(panel: &[u8], x: &[i8], lacking: i32, sums: &mut [i32; PANEL]) {
    row::<Dot>(panel, x, lacking, sums);
}

#[target_feature(enable = "neon")]
fn widening(panel: &[u8], x: &[i8], lacking: i32, sums: &mut [i32; PANEL]) {
    row::<Widening>(panel, x, lacking, sums);
}

/// A row and a panel.
#[inline(always)]
fn row<A: Accumulate>(panel: &[u8], x: &[i8], lacking: i32, sums: &mut [i32; PANEL]) {
    // Two sets, so that no product waits for the one before it.
    // SAFETY: the features are those of the function that this is inlined into, here and below.
    let mut columns = [[unsafe { A::zero() }; QUARTERS]; 2];
    for (g, (group, x)) in panel.as_chunks::<GROUP>().0.iter().zip(x.as_chunks::<4>().0).enumerate() {
        let x = i32::from_le_bytes(x.map(|x| x as u8));
        for (columns, weights) in columns[g % 2].iter_mut().zip(group.as_chunks::<16>().0) {
            // SAFETY: sixteen bytes are what is read.
            unsafe {
                let weights = veorq_u8(vld1q_u8(weights.as_ptr()), vdupq_n_u8(0x80));
                columns.add(vreinterpretq_s8_u8(weights), vreinterpretq_s8_s32(vdupq_n_s32(x)));
            }
        }
    }
    let [even, odd] = columns;
    for ((even, odd), sums) in even.into_iter().zip(odd).zip(sums.as_chunks_mut::<4>().0) {
        // SAFETY: four sums are what is read and written.
        unsafe {
            let more = vaddq_s32(vaddq_s32(even.sums(), odd.sums()), vdupq_n_s32(lacking));
            vst1q_s32(sums.as_mut_ptr(), vaddq_s32(vld1q_s32(sums.as_ptr()), more));
        }
    }
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
