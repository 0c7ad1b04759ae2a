//! From kernel order to rows and columns.

use crate::arch::operands::ByteRows;
use crate::arch::rows::Panels;
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, PANEL};
use std::arch::aarch64::*;

/// As [`RowKernel::write_rows`](crate::arch::RowKernel::write_rows): four weights are a word, and words are transposed four by
/// four.
///
/// # Safety
/// As there.
#[target_feature(enable = "neon")]
pub unsafe fn write_rows(panel: &[u8], ByteRows { at: out, stride, flip, .. }: ByteRows) {
    let flip = vdupq_n_u8(flip);
    for (f, fractal) in panel.as_chunks::<FRACTAL>().0.iter().enumerate() {
        for (half, four) in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)] {
            // SAFETY: a quarter of a group's 64 bytes.
            let word = |g: usize| unsafe {
                vreinterpretq_u32_u8(vld1q_u8(fractal.as_ptr().add((half * 4 + g) * GROUP + four * PANEL)))
            };
            let (a, b, c, d) = (word(0), word(1), word(2), word(3));
            let pairs = [vtrn1q_u32(a, b), vtrn2q_u32(a, b), vtrn1q_u32(c, d), vtrn2q_u32(c, d)];
            let pairs = pairs.map(|pair| vreinterpretq_u64_u32(pair));
            let transposed = [
                vtrn1q_u64(pairs[0], pairs[2]),
                vtrn1q_u64(pairs[1], pairs[3]),
                vtrn2q_u64(pairs[0], pairs[2]),
                vtrn2q_u64(pairs[1], pairs[3]),
            ];
            for (i, row) in transposed.into_iter().enumerate() {
                // SAFETY: the caller's contract.
                unsafe {
                    let to = out.add((four * 4 + i) * stride + f * FRACTAL_K + half * PANEL);
                    vst1q_u8(to, veorq_u8(vreinterpretq_u8_u64(row), flip));
                }
            }
        }
    }
}

/// As [`RowKernel::write_columns`](crate::arch::RowKernel::write_columns).
///
/// # Safety
/// As there.
#[target_feature(enable = "neon")]
pub unsafe fn write_columns(panels: Panels<'_>, ByteRows { at: out, stride, flip, .. }: ByteRows) {
    let flip = vdupq_n_u8(flip);
    for g in 0..panels.groups() {
        for p in 0..panels.count() {
            // SAFETY: the group's 64 bytes; the caller answers for the output.
            unsafe {
                let four = vld4q_u8(panels.group(p, g).as_ptr());
                let to = out.add(4 * g * stride + p * PANEL);
                vst1q_u8(to, veorq_u8(four.0, flip));
                vst1q_u8(to.add(stride), veorq_u8(four.1, flip));
                vst1q_u8(to.add(2 * stride), veorq_u8(four.2, flip));
                vst1q_u8(to.add(3 * stride), veorq_u8(four.3, flip));
            }
        }
    }
}
