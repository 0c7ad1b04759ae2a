//! Rounding to fp16.

use crate::arch::output::Output;
use crate::arch::rows::{self, Terms};
use std::arch::aarch64::*;
use std::arch::asm;

/// As [`rows::epilogue`].
#[target_feature(enable = "neon")]
pub fn epilogue(sums: &[i32], stride: usize, terms: &Terms<'_>, out: Output<'_>) {
    rows::epilogue(sums, stride, terms, out, |floats, halves| to_halves(floats, halves));
}

/// As [`rows::to_halves`].
#[inline]
#[target_feature(enable = "neon")]
fn to_halves(floats: &[f32], halves: &mut [u16]) {
    let (fours, rest) = floats.as_chunks::<4>();
    let (to, to_rest) = halves.as_chunks_mut::<4>();
    for (floats, halves) in fours.iter().zip(to) {
        // SAFETY: four floats are read, four halves written; the instruction changes nothing but its operand. Its intrinsic
        // has a type that is not stable.
        unsafe {
            let mut four: uint16x4_t;
            asm!(
                "fcvtn {four:v}.4h, {floats:v}.4s",
                four = lateout(vreg) four,
                floats = in(vreg) vld1q_f32(floats.as_ptr()),
                options(pure, nomem, nostack, preserves_flags),
            );
            vst1_u16(halves.as_mut_ptr(), four);
        }
    }
    rows::to_halves(rest, to_rest);
}
