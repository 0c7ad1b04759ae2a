//! Products of symbols in memory.
//!
//! `vpmaddubsw` multiplies bytes, and adds each two products with saturation. Exact ones are of wider operands: symbols are
//! widened to 16 bits, those of even and those of odd k apart, and multiplied by `vpmaddwd`.

use super::vectors::{LANES, load};
use crate::arch::kernel::{NoMemory, resize};
use crate::arch::operands::Rows;
use crate::geometry::{GROUP, GROUPS, PANEL};
use std::arch::x86_64::*;

/// Words that the activations of a group are in, where products are exact: the even ones, widened, and the odd ones.
const EXACT: usize = 2;
/// The same, where they saturate: the bytes that they are.
const SATURATING: usize = 1;

/// Rows that are multiplied at a time.
const ROWS: usize = 4;

/// Prepares rows of `k` activations, a multiple of a fractal's, to be multiplied.
#[target_feature(enable = "avx2")]
pub(super) fn prepare<const SATURATES: bool>(rows: &Rows<'_>, k: usize, out: &mut Vec<i32>) -> Result<(), NoMemory> {
    let words = if SATURATES { SATURATING } else { EXACT };
    let len = k / 4 * words;
    resize(out, rows.m() * len, 0)?;
    for (i, out) in out.chunks_exact_mut(len).enumerate() {
        let x = rows.row(i)[..k].as_chunks::<LANES>().0;
        for (x, out) in x.iter().zip(out.chunks_exact_mut(GROUPS * words)) {
            // SAFETY: the array is as long as the register.
            let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            if SATURATES {
                put(out, _mm256_xor_si256(x, _mm256_set1_epi8(i8::MIN)));
                continue;
            }
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
            let odd = _mm256_srai_epi16::<8>(x);
            let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
            let (first, rest) = out.split_at_mut(GROUPS);
            put(first, _mm256_permute2x128_si256::<0x20>(low, high));
            put(rest, _mm256_permute2x128_si256::<0x31>(low, high));
        }
    }
    Ok(())
}

/// Stores the words of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn put(to: &mut [i32], value: __m256i) {
    const { assert!(size_of::<[i32; GROUPS]>() == LANES) };
    let to: &mut [i32; GROUPS] = to.try_into().expect("as many as there are groups in a fractal");
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
}

/// Adds the products of one panel and all rows of prepared activations; rows of `acc` are `stride` apart.
#[target_feature(enable = "avx2")]
pub(super) fn multiply_panel<const SATURATES: bool>(panel: &[u8], x: &[i32], acc: &mut [i32], stride: usize) {
    if SATURATES {
        multiply_rows::<SATURATING>(panel, x, acc, stride);
    } else {
        multiply_rows::<EXACT>(panel, x, acc, stride);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply_rows<const WORDS: usize>(panel: &[u8], x: &[i32], acc: &mut [i32], stride: usize) {
    let len = panel.len() / GROUP * WORDS;
    let mut at = 0;
    let mut rows = x.chunks_exact(ROWS * len);
    for x in &mut rows {
        block::<ROWS, WORDS>(panel, x, &mut acc[at..], stride);
        at += ROWS * stride;
    }
    let x = rows.remainder();
    match x.len() / len {
        0 => {}
        1 => block::<1, WORDS>(panel, x, &mut acc[at..], stride),
        2 => block::<2, WORDS>(panel, x, &mut acc[at..], stride),
        _ => block::<3, WORDS>(panel, x, &mut acc[at..], stride),
    }
}

/// One panel by MR rows.
#[inline]
#[target_feature(enable = "avx2")]
fn block<const MR: usize, const WORDS: usize>(panel: &[u8], x: &[i32], acc: &mut [i32], stride: usize) {
    let (groups, _) = panel.as_chunks::<GROUP>();
    let (x, _) = x.as_chunks::<WORDS>();
    // Rows of that length: no index is checked again. Closures that the standard library calls are not inlined here.
    let mut rows = [x; MR];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &x[i * groups.len()..][..groups.len()];
    }
    let mut sums = [[_mm256_setzero_si256(); 2]; MR];
    for (s, group) in groups.iter().enumerate() {
        let (halves, _) = group.as_chunks::<LANES>();
        let symbols = [load(&halves[0]), load(&halves[1])];
        if WORDS == SATURATING {
            let flip = _mm256_set1_epi8(i8::MIN);
            let weights = [_mm256_xor_si256(symbols[0], flip), _mm256_xor_si256(symbols[1], flip)];
            for i in 0..MR {
                let x = _mm256_set1_epi32(rows[i][s][0]);
                for h in 0..2 {
                    let pairs = _mm256_maddubs_epi16(x, weights[h]);
                    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                    sums[i][h] = _mm256_add_epi32(sums[i][h], fours);
                }
            }
        } else {
            let low = _mm256_set1_epi16(0xff);
            let even = [_mm256_and_si256(symbols[0], low), _mm256_and_si256(symbols[1], low)];
            let odd = [_mm256_srli_epi16::<8>(symbols[0]), _mm256_srli_epi16::<8>(symbols[1])];
            for i in 0..MR {
                let x = [_mm256_set1_epi32(rows[i][s][0]), _mm256_set1_epi32(rows[i][s][WORDS - 1])];
                for h in 0..2 {
                    let fours = _mm256_add_epi32(_mm256_madd_epi16(even[h], x[0]), _mm256_madd_epi16(odd[h], x[1]));
                    sums[i][h] = _mm256_add_epi32(sums[i][h], fours);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let acc = &mut acc[i * stride..][..PANEL];
        for (sum, acc) in sums.iter().zip(acc.chunks_exact_mut(8)) {
            // SAFETY: eight accumulators are what is read and written.
            unsafe {
                let at = acc.as_mut_ptr().cast();
                _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), *sum));
            }
        }
    }
}
